//! The server of a site: serves profiles, takes inventories, events and logs, shows the fleet.
//!
//! * [`site`] is what the administrator decides: a directory of text files, keys and tokens.
//! * [`db`] is what the server learns: one SQLite file.
//! * [`identity`] decides who a machine is, [`grant`] whether it may be installed, [`state`] how far it is.
//! * [`order`] gives orders to machines that are installed.
//! * [`report`] takes in what machines tell that were installed with no network.
//! * [`http`] speaks with machines and the administrator; [`view`] is what the latter sees, [`picture`] the disks.
//!
//! [`Server::start`] runs it on threads of its own, for the program and for tests alike.

mod board;
pub mod db;
pub mod grant;
mod http;
pub mod identity;
pub mod lock;
mod opening;
pub mod order;
pub mod picture;
pub mod pool;
pub mod report;
mod server;
pub mod site;
pub mod state;
pub mod view;

pub use server::{Config, Running, Server};
