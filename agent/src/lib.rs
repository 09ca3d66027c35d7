//! The agent: the one static program that is PID 1 of the live system, installs, and stays on the
//! installed system.
//!
//! A room for each thing the machine goes through, in that order:
//!
//! [`boot`] → [`net`] → [`probe`] → [`fetch`] → plan (the planner crate) → [`storage`] → [`target`] →
//! [`resident`]. [`run`] is the pipeline that leads through them, [`report`] is how everybody learns
//! about it, [`rescue`] is for machines that need help, [`journal`] is what a power cut must find. [`sys`] is the only room that talks to the
//! kernel in ways the compiler cannot check.

pub mod boot;
pub mod cli;
pub mod durable;
pub mod fetch;
#[doc(hidden)]
pub mod fuzz;
pub mod journal;
pub mod net;
pub mod probe;
pub mod report;
pub mod rescue;
pub mod resident;
pub mod run;
pub mod storage;
pub mod sys;
pub mod target;
pub mod technician;
