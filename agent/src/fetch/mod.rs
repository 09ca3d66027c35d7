//! Getting to know what to install: enrolling, the signed profile, the permission.
