//! The new system: packages, settings, boot loader.
