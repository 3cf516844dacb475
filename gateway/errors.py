"""The errors that the gateway raises on purpose. Each carries one line: what is wrong, and how to mend it."""


class EgressError(Exception):
    """Anything the gateway refuses to go on with. ``exit_code`` is what the command line ends with."""

    exit_code = 125


class PrivilegeError(EgressError):
    """Something needs a privilege that this process does not have."""

    exit_code = 77


class SetupError(EgressError):
    """The host cannot give what the sandbox needs: a program, a kernel module, a directory."""


class InDoubt(SetupError):
    """What the kernel enforces is not known any more: the sandbox has been ended."""
