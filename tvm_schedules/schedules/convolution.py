def apply(function, target):
    return None
