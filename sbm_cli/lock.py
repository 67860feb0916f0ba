"""One writer at a time."""


def lock(number: int) -> bool:
    """Keep others from locking what a file descriptor is open on, until it is closed or this process ends anyhow.

    Return False if another has it. Where there are no locks, as on Windows and some network drives, nobody is kept.
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
