from tests.training.conftest import command_line, fit, make_net, make_trainer, record

__all__ = ["command_line", "fit", "make_net", "make_trainer", "record"]
