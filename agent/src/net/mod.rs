//! The network of the live system: cards, cables, addresses, names, HTTP, and what is wrong with them.
pub mod diagnose;
pub mod http;
pub mod resolver;
pub mod tls;
