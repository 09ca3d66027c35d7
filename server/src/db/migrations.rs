//! The tables, and how older ones become newer ones.

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, TransactionBehavior};

/// Each step brings the tables one version further. Steps that were released are never edited.
const STEPS: &[&str] = &[
    "
    CREATE TABLE machines (
        id TEXT PRIMARY KEY,
        serial INTEGER NOT NULL UNIQUE,       -- of the asset number
        created TEXT NOT NULL,
        seen TEXT NOT NULL,
        peer TEXT NOT NULL,
        inventory TEXT NOT NULL,
        recognised TEXT NOT NULL,             -- how the first enrolment was judged
        maybe TEXT,                           -- another machine this one may be, until a person decides
        allowed TEXT                          -- consent for the next run, used up by it
    ) STRICT;

    CREATE TABLE credentials (
        sum TEXT PRIMARY KEY,                 -- SHA-256; the credential is 256 random bits
        machine TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
        created TEXT NOT NULL
    ) STRICT;
    CREATE INDEX credentials_machine ON credentials (machine);

    CREATE TABLE evidence (
        machine TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
        kind TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (machine, kind, value)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX evidence_value ON evidence (kind, value);

    CREATE TABLE worthless (                  -- seen on two machines known to be different
        kind TEXT NOT NULL,
        value TEXT NOT NULL,
        since TEXT NOT NULL,
        PRIMARY KEY (kind, value)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE notes (
        id INTEGER PRIMARY KEY,
        machine TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
        at TEXT NOT NULL,
        text TEXT NOT NULL
    ) STRICT;
    CREATE INDEX notes_machine ON notes (machine);

    CREATE TABLE runs (
        n INTEGER PRIMARY KEY,                -- order
        id TEXT NOT NULL UNIQUE,
        machine TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
        created TEXT NOT NULL,
        credential TEXT,                      -- sum of the credential that asked
        inventory TEXT,
        answer TEXT,                          -- what the machine was told
        profile TEXT,
        revision TEXT,
        why TEXT,                             -- why this profile
        consent TEXT,                         -- what was granted
        refusal TEXT,                         -- why nothing was granted
        state TEXT NOT NULL                   -- derived from the events
    ) STRICT;
    CREATE INDEX runs_machine ON runs (machine);

    CREATE TABLE events (
        run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        received TEXT NOT NULL,
        type TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (run, seq)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE logs (
        run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        received TEXT NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (run, name)
    ) STRICT;

    CREATE TABLE requests (
        id INTEGER PRIMARY KEY,
        at TEXT NOT NULL,
        peer TEXT NOT NULL,
        method TEXT NOT NULL,
        path TEXT NOT NULL,
        status INTEGER NOT NULL,
        machine TEXT,
        ms INTEGER NOT NULL
    ) STRICT;
",
    "
    ALTER TABLE machines ADD COLUMN token TEXT;  -- id of the token it was made known with
",
    "
    CREATE TABLE orders (
        n INTEGER PRIMARY KEY,                -- order
        id TEXT NOT NULL UNIQUE,
        machine TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
        created TEXT NOT NULL,
        expires INTEGER NOT NULL,             -- seconds since 1970
        document TEXT NOT NULL,
        envelope TEXT NOT NULL,               -- the same, signed
        state TEXT NOT NULL,
        open INTEGER NOT NULL,                -- whether the machine is to see it
        changed TEXT NOT NULL,
        run TEXT,                             -- the run that used it
        lock TEXT                             -- sum of the signed lock kept for it, until it has ended
    ) STRICT;
    CREATE INDEX orders_machine ON orders (machine);
    CREATE INDEX orders_run ON orders (run) WHERE run IS NOT NULL;
    CREATE INDEX orders_open ON orders (n) WHERE open = 1;
    CREATE INDEX orders_lock ON orders (lock, open, expires) WHERE lock IS NOT NULL;

    -- By this a running server sees what the administrator's commands do beside it. It counts what a machine is to
    -- see; how far one is changes too often to read all of them again.
    CREATE TABLE order_clock (n INTEGER NOT NULL) STRICT;
    INSERT INTO order_clock VALUES (0);
    CREATE TRIGGER order_made AFTER INSERT ON orders BEGIN UPDATE order_clock SET n = n + 1; END;
    CREATE TRIGGER order_changed AFTER UPDATE OF open ON orders WHEN OLD.open <> NEW.open
        BEGIN UPDATE order_clock SET n = n + 1; END;
    CREATE TRIGGER order_gone AFTER DELETE ON orders BEGIN UPDATE order_clock SET n = n + 1; END;
",
    "
    ALTER TABLE machines ADD COLUMN medium TEXT;         -- the medium it joined by, without a network
    -- Of when its inventory is: milliseconds since 1970, and the newest event then. One that the machine sent itself counts
    -- more than every report of that moment.
    ALTER TABLE machines ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE machines ADD COLUMN told_seq INTEGER NOT NULL DEFAULT 0;
    UPDATE machines SET told = coalesce(CAST(strftime('%s', seen) AS INTEGER), 0) * 1000;
    CREATE INDEX machines_medium ON machines (medium) WHERE medium IS NOT NULL;
    ALTER TABLE runs ADD COLUMN association TEXT;

    CREATE TABLE strangers (                  -- machines of media that do not count, until a person decides
        machine TEXT PRIMARY KEY,
        credential TEXT NOT NULL,             -- sum
        medium TEXT NOT NULL,
        serial INTEGER NOT NULL,              -- of the asset number it calls itself
        association TEXT,
        hardware TEXT NOT NULL,               -- for people
        why TEXT NOT NULL,                    -- why it waits
        created TEXT NOT NULL,
        seen TEXT NOT NULL,
        peer TEXT NOT NULL,
        decision TEXT                         -- what a person said: admit or drop
    ) STRICT;
    CREATE TABLE letters (                    -- their reports, sealed as they came
        machine TEXT NOT NULL REFERENCES strangers (machine) ON DELETE CASCADE,
        run TEXT NOT NULL,
        events INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        PRIMARY KEY (machine, run)
    ) STRICT;
",
    "
    ALTER TABLE strangers ADD COLUMN tried INTEGER NOT NULL DEFAULT 0;  -- whether nothing was installed on it
",
];

/// Brings the tables up to date.
///
/// # Errors
/// When the file was written by a newer server.
pub fn apply(connection: &mut Connection) -> Result<()> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .context("locking the database")?;
    transaction
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS version (n INTEGER NOT NULL) STRICT;
             INSERT INTO version SELECT 0 WHERE NOT EXISTS (SELECT * FROM version);",
        )
        .context("making the version table")?;
    let version: u32 = transaction
        .query_row("SELECT n FROM version", [], |row| row.get(0))
        .context("reading the version of the tables")?;
    let newest = STEPS.len() as u32;
    ensure!(
        version <= newest,
        "its tables have version {version}, this server knows {}: it was written by a newer akene-server; \
         install that one",
        newest
    );
    for (n, step) in STEPS.iter().enumerate().skip(version as usize) {
        transaction
            .execute_batch(step)
            .with_context(|| format!("bringing the tables to version {}", n + 1))?;
    }
    transaction.execute("UPDATE version SET n = ?1", [newest]).context("noting the version")?;
    transaction.commit().context("keeping the new tables")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_made_once_and_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let mut connection = Connection::open(&path).unwrap();
        apply(&mut connection).unwrap();
        apply(&mut connection).unwrap();
        connection.execute("UPDATE version SET n = 99", []).unwrap();
        let error = apply(&mut connection).unwrap_err();
        assert!(error.to_string().contains("newer akene-server"), "{error:#}");
    }
}
