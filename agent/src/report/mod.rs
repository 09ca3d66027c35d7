//! Telling everybody what happens: screen, serial console, log, server.
