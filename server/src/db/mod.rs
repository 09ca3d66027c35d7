//! What the server learns, in one SQLite file.
//!
//! One connection behind a lock does all the work, on threads for blocking work; commands of the
//! administrator open the same file beside a running server. `synchronous = FULL`: what was
//! acknowledged to a machine survives a power cut of the server, because the machine forgets it then.
//!
//! [`machines`] is who there is, [`runs`] their installations, [`events`] what happened in them,
//! [`orders`] what they are asked to do and [`requests`] who asked for what. [`newcomers`] came with a report instead of
//! enrolling, and [`strangers`] wait for a person's word.

pub mod events;
pub mod machines;
mod migrations;
pub mod newcomers;
pub mod orders;
pub mod requests;
pub mod runs;
pub mod strangers;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use akene_protocol::Issue;
use anyhow::{Context as _, Result};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::de::DeserializeOwned;

/// The database.
#[derive(Clone)]
pub struct Db {
    connection: Arc<Mutex<Connection>>,
}

/// Why a piece of work on the database came to nothing: the one who asked is wrong, or we are.
#[derive(Debug)]
pub enum Trouble {
    /// Nothing was changed; this is the answer.
    Refused(Issue),
    /// Something is broken here.
    Broken(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Trouble::Broken(error.into())
    }
}

impl Trouble {
    /// As an error of a command.
    pub fn into_error(self) -> anyhow::Error {
        match self {
            Trouble::Refused(issue) => issue.into(),
            Trouble::Broken(error) => error,
        }
    }
}

impl Db {
    /// Opens the database, makes it if there is none, and brings its tables up to date.
    pub fn open(path: &Path) -> Result<Db> {
        let doing = || format!("opening the database {}", path.display());
        if let Some(parent) = path.parent() {
            crate::site::keys::private_dir(parent)?;
        }
        let mut connection = Connection::open(path).with_context(doing)?;
        connection.busy_timeout(Duration::from_secs(20)).with_context(doing)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
                 PRAGMA journal_size_limit = 67108864;",
            )
            .with_context(doing)?;
        migrations::apply(&mut connection).with_context(doing)?;
        Ok(Db { connection: Arc::new(Mutex::new(connection)) })
    }

    /// A connection of its own to the same file, which only reads: what many ask at once waits for no writer.
    pub fn reader(path: &Path) -> Result<Connection> {
        let doing = || format!("opening the database {} for reading", path.display());
        let connection = Connection::open(path).with_context(doing)?;
        connection.busy_timeout(Duration::from_secs(20)).with_context(doing)?;
        connection.execute_batch("PRAGMA query_only = ON;").with_context(doing)?;
        Ok(connection)
    }

    /// Does a piece of work in one transaction, which counts only when it succeeds.
    pub fn run<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble>) -> Result<T, Trouble> {
        // A panic in another piece of work rolled its transaction back; the connection is sound.
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        // Immediate: two writers in two processes wait for each other instead of failing half way.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = work(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// The same away from the threads that serve the network.
    pub async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        let db = self.clone();
        tokio::task::spawn_blocking(move || db.run(work)).await?
    }
}

/// Reads a JSON column.
fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).context("reading a document from the database")
}
