//! The network of the live system: cards, cables, addresses, names, HTTP, and what is wrong with them.
