"""Networks and complete runs to start from; every module here runs on a CPU."""
