//! Carrying out a plan: tables, filesystems, mounts.
