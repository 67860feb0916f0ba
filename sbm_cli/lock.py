"""A lock for one writer at a time."""


def lock(number: int) -> bool:
    """Lock the file of a descriptor until it is closed or this process ends; return False if another has the lock.

    Without locks, as on Windows and some network drives, nobody is kept out.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network drive without locks
        pass
    return True
