from tests.tvm_schedules.conftest import fake_compiler

__all__ = ["fake_compiler"]
