"""The privileged process: namespaces, routes, firewall rules, transparent sockets. It never sees a workload's byte."""
