"""What epoll tells of a socket (epoll_ctl(2))."""

import select
from typing import Final

BYTES: Final = select.EPOLLIN
IN: Final = BYTES | select.EPOLLRDHUP
OUT: Final = select.EPOLLOUT
ERROR: Final = select.EPOLLERR
END: Final = select.EPOLLHUP | ERROR
RDHUP: Final = select.EPOLLRDHUP
PRI: Final = select.EPOLLPRI
HEARING: Final = IN | PRI | select.EPOLLET
EVERYTHING: Final = HEARING | OUT
ANYTHING: Final = ~0
