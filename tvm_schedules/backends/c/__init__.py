"""The target ``c``: a network as one file of plain C, for boards and microcontrollers without TVM."""
