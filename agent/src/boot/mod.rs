//! PID 1 of the live system: mounts, modules, devices, console, clock, and at the end the restart.
