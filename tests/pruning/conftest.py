from tests.training.conftest import fit, make_net, make_trainer, record

__all__ = ["fit", "make_net", "make_trainer", "record"]
