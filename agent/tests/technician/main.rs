//! The technician's dialog: every page as it looks, whole dialogues on a real terminal, and any keys at all.
#![allow(missing_docs)]

mod any_keys;
mod machines;
mod pages;
mod seat;
mod whole;
