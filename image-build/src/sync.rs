//! Bringing home what machines without a network left on a stick.
//!
//! Each report goes to the server as it is, sealed, and is removed from the stick when the server has answered that it has
//! it. It may be brought again, by the same stick after a power cut or by the machine itself: the server knows what it has.

use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use akene_exec::Runner;
use akene_protocol::api::Recognised;
use akene_protocol::report::{LARGEST, ReportAccepted};
use akene_protocol::{AssetNumber, Bytes, Issue, MachineId};
use akene_server::db::{Db, Trouble};
use akene_server::report;
use akene_server::site::Site;
use anyhow::{Context, Result, anyhow};
use reqwest::StatusCode;
use reqwest::blocking::Client;

use crate::stick::Stick;
use crate::web;

/// How long a report may take on a slow line: the server waits no longer, either.
const LONGEST_DELIVERY: Duration = Duration::from_secs(150);

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What became of each machine, in the order of the reports.
    pub machines: Vec<Brought>,
    /// Reports that are not taken, and stay on the stick.
    pub refused: Vec<(String, Issue)>,
    /// Why it ended before everything was brought, or is brought and still on the stick. To be tried again.
    pub broken: Option<anyhow::Error>,
}

/// What became of a machine's reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brought {
    /// Which one.
    pub machine: MachineId,
    /// Its number at the server.
    pub asset: AssetNumber,
    /// The number it came with, where that is another machine's.
    pub instead_of: Option<AssetNumber>,
    /// Whether the number it came with stands on it.
    pub labelled: bool,
    /// The association.
    pub association: Option<String>,
    /// Who the server thinks it is.
    pub recognised: Recognised,
    /// Whether it is a member.
    pub admitted: bool,
    /// How many of its events the server did not know.
    pub events: usize,
}

impl fmt::Display for Brought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let became = match (self.admitted, self.recognised) {
            (false, Recognised::New) => "not installed",
            (false, _) => "waiting",
            (true, Recognised::New) => "joined",
            (true, Recognised::Same) => "same",
            (true, Recognised::Ask) => "ask",
        };
        let association = self.association.as_deref().unwrap_or("–");
        write!(f, "{:>8}  {association}  {became}  {} events", self.asset.to_string(), self.events)?;
        if let Some(before) = self.instead_of {
            write!(f, "  (came as {before}, which another computer has")?;
            f.write_str(if self.labelled { "; change its label)" } else { ")" })?;
        }
        Ok(())
    }
}

impl Outcome {
    fn add(&mut self, accepted: ReportAccepted) {
        let ReportAccepted { machine, asset, instead_of, labelled, association, recognised, admitted, new } =
            accepted;
        let known =
            self.machines.iter_mut().find(|known| (known.machine, known.admitted) == (machine, admitted));
        match known {
            Some(known) => {
                known.events += new;
                known.association = association.or(known.association.take());
            }
            None => self.machines.push(Brought {
                machine,
                asset,
                instead_of,
                labelled,
                association,
                recognised,
                admitted,
                events: new,
            }),
        }
    }
}

/// Why a report is still on the stick.
enum Undelivered {
    /// The server does not take this one.
    Refused(Issue),
    /// It cannot be asked now.
    Later(anyhow::Error),
}

/// Who takes the reports.
enum Receiver<'a> {
    Site { site: &'a Site, db: Db, most: Bytes },
    Server { client: Client, url: String },
}

/// Delivers the reports on a stick (a device, an image or a directory), to the server its stamp names, or into a site
/// directory on this computer.
///
/// # Errors
/// The stick cannot be read, or does not say whose it is. What happens later is part of the outcome.
pub fn sync(runner: &dyn Runner, stick: &Path, site: Option<&Site>) -> Result<Outcome> {
    // On a thread of its own, for its mounts are.
    std::thread::scope(|scope| {
        let work = scope.spawn(|| bring(runner, stick, site));
        work.join().map_err(|_| anyhow!("bringing the reports of {} home failed", stick.display()))?
    })
}

fn bring(runner: &dyn Runner, named: &Path, site: Option<&Site>) -> Result<Outcome> {
    let stick = Stick::open(runner, named)?;
    let letters = letters(&stick.reports())?;
    let mut outcome = Outcome::default();
    if letters.is_empty() {
        return stick.close().map(|()| outcome);
    }
    let receiver = match site {
        Some(site) => {
            let most = site.config()?.limits.log_bytes_per_machine;
            Receiver::Site { site, db: Db::open(&site.database())?, most }
        }
        None => {
            let home = stick.home()?;
            let url = format!("{}/v1/reports", home.url.trim_end_matches('/'));
            Receiver::Server { client: web::client(&home.tls, None)?, url }
        }
    };
    for path in letters {
        if let Err(error) = one(&receiver, &path, &mut outcome) {
            outcome.broken = Some(error);
            break;
        }
    }
    if let Err(error) = stick.close() {
        outcome.broken.get_or_insert(error);
    }
    Ok(outcome)
}

/// The reports in a directory, by name. What has another name is not finished.
fn letters(dir: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("listing {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(reading)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(reading)?;
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "sealed")
            && entry.file_type().with_context(reading)?.is_file()
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn one(receiver: &Receiver<'_>, path: &Path, outcome: &mut Outcome) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let reading = || format!("reading {}", path.display());
    let length = fs::metadata(path).with_context(reading)?.len();
    if length > LARGEST as u64 {
        let message = format!("it has {length} bytes, more than any report");
        outcome.refused.push((name, Issue::new("report-too-large", "", message, "remove it")));
        return Ok(());
    }
    let sealed = fs::read(path).with_context(reading)?;
    match receiver.deliver(sealed) {
        Ok(accepted) => {
            outcome.add(accepted);
            // Where that fails, the server has it all the same.
            remove(path)
        }
        Err(Undelivered::Refused(issue)) => {
            outcome.refused.push((name, issue));
            Ok(())
        }
        Err(Undelivered::Later(error)) => Err(error.context(format!("delivering {name}"))),
    }
}

fn remove(path: &Path) -> Result<()> {
    let doing = || format!("removing {}, which the server has", path.display());
    fs::remove_file(path).with_context(doing)?;
    let dir = path.parent().with_context(doing)?;
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(doing)
}

impl Receiver<'_> {
    fn deliver(&self, sealed: Vec<u8>) -> Result<ReportAccepted, Undelivered> {
        match self {
            Receiver::Site { site, db, most } => {
                let taken = report::open(site, &sealed)
                    .and_then(|opened| db.run(|db| report::take(db, site, &opened, "a stick", *most)));
                taken.map_err(|trouble| match trouble {
                    Trouble::Refused(issue) => Undelivered::Refused(issue),
                    Trouble::Broken(error) => Undelivered::Later(error),
                })
            }
            Receiver::Server { client, url } => post(client, url, sealed),
        }
    }
}

/// Codes that come with "too many requests" and are about this report all the same. The server says `too-often` instead of
/// why it refuses one more; what is right it takes as before, and that may come next.
const ABOUT_ONE: [&str; 2] = ["too-many-waiting", "too-often"];

fn post(client: &Client, url: &str, sealed: Vec<u8>) -> Result<ReportAccepted, Undelivered> {
    let later = |error: reqwest::Error| {
        let why = match akene_tls::not_pinned(&error) {
            Some(not_pinned) => anyhow!("{not_pinned}"),
            None => anyhow!(error.without_url()),
        };
        Undelivered::Later(why.context(format!("asking {url}")))
    };
    let request = client.post(url).header("content-type", "application/octet-stream");
    let answer = request.timeout(LONGEST_DELIVERY).body(sealed).send().map_err(later)?;
    let status = answer.status();
    let text = answer.bytes().map_err(later)?;
    judge(url, status, &text)
}

fn judge(url: &str, status: StatusCode, text: &[u8]) -> Result<ReportAccepted, Undelivered> {
    if status.is_success() {
        return serde_json::from_slice(text).map_err(|error| {
            Undelivered::Later(anyhow!("{url} does not answer as an akene-server does: {error}"))
        });
    }
    // Every refusal of an akene-server has an issue as its body; another one's has not.
    match serde_json::from_slice::<Issue>(text) {
        Ok(issue)
            if status.is_client_error() && (status != 429 || ABOUT_ONE.contains(&issue.code.as_str())) =>
        {
            Err(Undelivered::Refused(issue))
        }
        Ok(issue) => Err(Undelivered::Later(issue.into())),
        Err(_) => Err(Undelivered::Later(anyhow!(
            "{url} answers with HTTP {status}, and not as an akene-server does"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(machine: u8, new: usize) -> ReportAccepted {
        ReportAccepted {
            machine: MachineId([machine; 16]),
            asset: AssetNumber::new(123_456),
            instead_of: None,
            labelled: false,
            association: None,
            recognised: Recognised::Ask,
            admitted: false,
            new,
        }
    }

    #[test]
    fn what_is_refused_keeps_nothing_behind_it() {
        let judged = |status: u16, code: &str| {
            let issue = serde_json::to_vec(&Issue::new(code, "", "no", "")).unwrap();
            match judge("https://here", StatusCode::from_u16(status).unwrap(), &issue) {
                Err(Undelivered::Refused(issue)) => issue.code,
                Err(Undelivered::Later(error)) => format!("later: {error:#}"),
                Ok(_) => panic!("accepted"),
            }
        };
        for (status, code) in
            [(401, "report-seal"), (403, "machine-dropped"), (429, "too-many-waiting"), (429, "too-often")]
        {
            assert_eq!(judged(status, code), code);
        }
        for (status, code) in [(503, "too-many-reports"), (429, "another"), (500, "broken")] {
            assert!(judged(status, code).starts_with("later: "), "{status} {code}");
        }
        assert!(matches!(judge("", StatusCode::UNAUTHORIZED, b"<html>"), Err(Undelivered::Later(_))));
    }

    #[test]
    fn two_machines_that_call_themselves_the_same_are_two() {
        let mut outcome = Outcome::default();
        for (machine, new) in [(1, 3), (2, 5), (1, 4)] {
            outcome.add(accepted(machine, new));
        }
        let events: Vec<usize> = outcome.machines.iter().map(|machine| machine.events).collect();
        assert_eq!(events, [7, 5]);
    }
}
