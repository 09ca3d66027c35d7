//! Locking profiles: every package of every machine pinned, signed and kept in the site directory.
//!
//! The same for `akene-server lock` and `akene-image lock`. The distribution's own apt on this machine reads and
//! verifies the archives and chooses the packages, see [`akene_archive::lock`].

use akene_archive::Progress;
use akene_archive::lock::{Changes, Made, Snapshots, make, variants};
use akene_exec::Runner;
use akene_protocol::issue::Issues;
use akene_protocol::lock::{ProfileLock, Selection};
use akene_protocol::{Bytes, Envelope, Inventory, Issue, PublicKey, Sha256};
use anyhow::{Context as _, Result};

use crate::db::{Db, machines};
use crate::pool::Pool;
use crate::site::Site;

/// Most packages of one kind of change that are named in a table.
const NAMED: usize = 40;

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Profiles; all where none is named.
    pub profiles: Vec<String>,
    /// Only say what would change.
    pub check: bool,
    /// Proxy for reading the archives.
    pub proxy: Option<String>,
}

/// What was found about a profile.
#[derive(Clone, Debug)]
pub struct Locked {
    /// The lock.
    pub lock: ProfileLock,
    /// What changed against the one there was; `None` where there was none.
    pub changes: Option<Changes>,
    /// Why the one there was could not be read.
    pub unreadable: Option<String>,
    /// Whether the document is another than before: also a release made anew without a new package is.
    pub different: bool,
    /// Kinds of machines without an answer, and why.
    pub left_out: Vec<(String, Issues)>,
    /// What was noted of the archives.
    pub notes: Vec<Issue>,
    /// Whether there are more combinations of classes than were foreseen.
    pub incomplete: bool,
}

/// Locks the profiles of a site, one after the other against the same indexes.
///
/// # Errors
/// The first that keeps a profile from being locked; those before it are.
pub fn lock(
    site: &Site,
    runner: &dyn Runner,
    order: &Order,
    progress: &mut dyn FnMut(&str, Progress),
    done: &mut dyn FnMut(&Locked) -> Result<()>,
) -> Result<()> {
    let config = site.config()?;
    let key = site.key()?;
    let fleet = fleet(site)?;
    let pool = Pool::of(site);
    let own = |sum: &Sha256| pool.find(sum);
    let mut snapshots = Snapshots::new(&site.dir().join("state/apt"), order.proxy.as_deref(), &own);
    let names = match order.profiles.is_empty() {
        true => site.profile_names()?,
        false => order.profiles.clone(),
    };
    for name in &names {
        let locking = || format!("locking the profile {name}");
        let bundle = site.bundle(&config, name).with_context(locking)?;
        let variants = variants(&bundle, &fleet);
        let made = make(runner, &bundle, &variants, &mut snapshots, &mut |p| progress(name, p))
            .with_context(locking)?;
        let Made { lock, left_out, notes } = made;
        let (old, unreadable) = match site.signed_lock(name)? {
            Some(text) => match read(&text, &PublicKey(key.verifying_key())) {
                Ok(old) => (Some(old), None),
                Err(error) => (None, Some(format!("{error:#}"))),
            },
            None => (None, None),
        };
        let different = old.as_ref() != Some(&lock);
        if different && !order.check {
            site.write_lock(&lock).with_context(locking)?;
        }
        let changes = old.map(|old| Changes::between(&old, &lock));
        done(&Locked {
            lock,
            changes,
            unreadable,
            different,
            left_out,
            notes,
            incomplete: variants.incomplete,
        })?;
    }
    Ok(())
}

/// Reads a signed lock.
fn read(text: &[u8], key: &PublicKey) -> Result<ProfileLock> {
    Ok(Envelope::parse(text)?.open(key)?)
}

/// The machines the server knows, where there is a server.
fn fleet(site: &Site) -> Result<Vec<Inventory>> {
    let path = site.database();
    if !path.is_file() {
        return Ok(vec![]);
    }
    let machines = Db::open(&path)?.run(|db| Ok(machines::all(db)?)).map_err(|t| t.into_error())?;
    Ok(machines.into_iter().map(|machine| machine.inventory).collect())
}

/// A listener for [`lock`] that says on standard error what goes on, each thing once.
pub fn on_stderr() -> impl FnMut(&str, Progress) {
    let mut shown = String::new();
    move |profile, progress| {
        if progress.what != shown {
            eprintln!("{profile}: {}", progress.what);
            shown = progress.what;
        }
    }
}

/// What was found, for people.
pub fn describe(locked: &Locked, check: bool) -> String {
    let lock = &locked.lock;
    let sizes = lock.selections.iter().map(|selection| {
        let places = Selection::places(&selection.packages);
        places.filter_map(|place| lock.packages.get(place)).map(|p| p.size).sum::<Bytes>()
    });
    let (least, most) = sizes.fold((None, None), |(least, most): (Option<Bytes>, Option<Bytes>), size| {
        (Some(least.map_or(size, |l| l.min(size))), Some(most.map_or(size, |m| m.max(size))))
    });
    let all: Bytes = lock.packages.iter().map(|p| p.size).sum();
    let date = lock.date().map_or_else(|| "unknown".into(), |date| date.to_string());
    let mut lines = vec![format!(
        "{}: {} kinds of machines, {} packages, {all} in all ({} to {} a machine), archives of {date}",
        lock.profile,
        lock.selections.len(),
        lock.packages.len(),
        least.unwrap_or_default(),
        most.unwrap_or_default(),
    )];
    let mut say = |line: String| lines.push(format!("  {line}"));
    match &locked.changes {
        _ if locked.unreadable.is_some() => {
            say(format!(
                "the lock there was is replaced: {}",
                locked.unreadable.as_deref().unwrap_or_default()
            ));
        }
        None => say(if check { "there is no lock" } else { "the first lock of this profile" }.to_owned()),
        Some(_) if !locked.different => say("nothing has changed".to_owned()),
        Some(changes) => {
            let pairs = |list: &[(String, String)]| list.iter().map(|(n, v)| format!("{n} {v}")).collect();
            let lists: [(&str, Vec<String>); 4] = [
                ("upgraded", changes.changed.iter().map(|(n, o, v)| format!("{n} {o} → {v}")).collect()),
                ("added", pairs(&changes.added)),
                ("removed", pairs(&changes.removed)),
                ("other files of the same version", pairs(&changes.replaced)),
            ];
            for (what, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
                say(format!("{what} ({}):", list.len()));
                list.iter().take(NAMED).for_each(|line| say(format!("  {line}")));
                if list.len() > NAMED {
                    say(format!("  … and {} more", list.len() - NAMED));
                }
            }
            let (more, less) = changes.requests;
            if more + less > 0 {
                say(format!("answers to {more} new requests; {less} are no longer asked"));
            }
            if changes.is_empty() {
                say("the same packages, from newer releases or for another revision of the profile"
                    .to_owned());
            }
        }
    }
    locked.notes.iter().for_each(|note| say(format!("attention: {note}")));
    for (what, issues) in &locked.left_out {
        say(format!("attention: no answer for {what}: {issues}"));
    }
    if locked.incomplete {
        say("attention: the rules of its classes combine in too many ways; only the machines that are known, all \
             classes and none were foreseen. Other machines choose their packages by themselves."
            .to_owned());
    }
    lines.join("\n")
}
