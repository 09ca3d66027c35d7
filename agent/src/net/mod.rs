//! The network of the live system: cards, cables, addresses, names, HTTP, and what is wrong with them.
//!
//! [`connect`] is the whole network phase: [`bring_up`] gets an address from whatever network is there,
//! [`clock`] finds out what time it is, [`Online::reach`] asks the site's server for a sign of life. Each
//! way it can fail is one issue with one code ([`diagnose`], [`card`]).
//!
//! | file | what |
//! |---|---|
//! | [`card`] | cards and cables |
//! | [`bring_up`](mod@bring_up) | addresses: fixed, DHCP ([`dhcp`]), router advertisements ([`advert`]) |
//! | [`resolver`], [`resolv_conf`] | names, for us and for other programs |
//! | [`clock`] | time |
//! | [`tls`], [`http`] | who is trusted, clients |
//! | [`diagnose`] | causes told apart |

pub mod advert;
pub mod bring_up;
pub mod card;
pub mod clock;
pub mod dhcp;
pub mod diagnose;
pub mod http;
pub mod online;
pub mod resolv_conf;
pub mod resolver;

pub use akene_tls as tls;
pub use bring_up::{Wanted, bring_up};
pub use online::{Online, Site, connect};

/// Where leases, logs of DHCP clients and name servers of the live system are kept.
pub const DIRECTORY: &str = "/run/akene/net";
