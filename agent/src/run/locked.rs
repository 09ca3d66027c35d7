//! Packages from the profile's signed lock: no index is read and nothing is solved.

use std::path::PathBuf;

use akene_planner::Plan;
use akene_protocol::lock::{Age, Lock, LockedPackage, ProfileLock};
use akene_protocol::profile::LockUse;
use akene_protocol::{Issue, PublicKey, Resolved};
use anyhow::Result;
use jiff::Timestamp;

use super::doubt::judged;
use super::machine::{Authority, Machine};
use super::stage;
use crate::fetch::{SignedLock, Site, known, medium, read_lock};
use crate::target;

impl Machine<'_> {
    /// The packages of this machine by the profile's signed lock. `None` where it has to choose by itself, which
    /// is said, with the reason where there is a lock.
    ///
    /// # Errors
    /// A lock that is refused, or one that is missing or has no answer where the profile demands it.
    pub(super) fn locked(&mut self, resolved: &Resolved, plan: &Plan) -> Result<Option<Lock>> {
        self.signed = None;
        // A medium that brings everything has packages for its signed lock, and nobody to ask for others.
        let stick = self.stick().is_some();
        if resolved.lock == LockUse::Ignored && !stick {
            self.reporter.info("the profile wants no signed lock: the packages are chosen here");
            return Ok(None);
        }
        let required = resolved.lock == LockUse::Required || stick;
        let Some(signed) = self.signed_lock(&resolved.profile)? else {
            if required {
                return Err(Issue::new(
                    "lock-missing",
                    &*resolved.profile,
                    "the profile is installed from a signed lock only (`apt.lock`), and there is none",
                    "make it with `akene-server lock`, then start this computer again",
                )
                .into());
            }
            self.reporter.info("the profile has no signed lock: the packages are chosen here");
            return Ok(None);
        };
        let lock = match self.lock_of_this_machine(&signed, resolved, plan)? {
            Ok(lock) => lock,
            Err(issue) if required => return Err(issue.into()),
            Err(issue) => {
                self.reporter.warn(format!("{issue}; the packages are chosen here"));
                return Ok(None);
            }
        };
        let date = signed.lock.date().map_or_else(String::new, |date| format!(" of {date}"));
        self.reporter.info(format!("packages by the signed lock{date}: no index is read"));
        self.signed = Some(Box::new(signed));
        Ok(Some(lock))
    }

    /// The packages of this machine, or why the lock is not used for it.
    fn lock_of_this_machine(
        &self,
        signed: &SignedLock,
        resolved: &Resolved,
        plan: &Plan,
    ) -> Result<Result<Lock, Issue>> {
        let request = target::request(resolved, plan, self.firmware);
        let selected = signed
            .lock
            .of_site(&resolved.site)
            .and_then(|()| signed.lock.select(&resolved.profile, &resolved.archive, &request));
        let lock = match selected {
            Ok(lock) => lock,
            Err(issue) => return Ok(Err(issue)),
        };
        let now = Timestamp::now();
        let dated = |issue| judged(issue, self.clock.as_ref(), now);
        match signed.lock.age(&lock, now, resolved.lock_days) {
            Age::Good => {}
            Age::Old(issue) => self.reporter.warn(dated(issue).to_string()),
            Age::TooOld(issue) => return Ok(Err(dated(issue))),
        }
        match self.former_locks(&signed.key).iter().find_map(|former| signed.lock.behind(former)) {
            Some(issue) if resolved.lock_older => {
                self.reporter.info(format!("{}; the profile permits it", issue.message));
            }
            Some(issue) => return Ok(Err(issue)),
            None => {}
        }
        if self.stick().is_some() {
            return Ok(Ok(lock));
        }
        // An archive deletes what newer versions have replaced. Better to know before a disk is changed. What lies on this
        // computer is not asked for.
        let missing = stage::missing(plan, &lock);
        match outdated(&resolved.profile, &self.fetcher()?.gone(&missing)) {
            Some(issue) => Ok(Err(issue)),
            None => Ok(Ok(lock)),
        }
    }

    /// The signed locks that this machine's disks were installed from. What cannot be read says nothing.
    fn former_locks(&self, key: &PublicKey) -> Vec<ProfileLock> {
        let read = |node: &PathBuf| match known::signed_lock(node, key) {
            Ok(lock) => lock,
            Err(error) => {
                self.reporter.debug(format!("the signed lock on {} is of no use: {error:#}", node.display()));
                None
            }
        };
        self.boots.iter().filter_map(read).collect()
    }

    fn signed_lock(&self, profile: &str) -> Result<Option<SignedLock>> {
        if let (Some(stick), Authority::Site { stamp, .. }) = (self.stick(), &self.authority) {
            let place = format!("the signed lock of {profile} on the medium");
            return read_lock(&stick.lock(profile)?, &stamp.site_key, &place).map(Some);
        }
        match &self.authority {
            // The medium that had the profile is gone, and its lock with it.
            Authority::Site { stamp, begun: Some(resume), .. } => resume.signed_lock(&stamp.site_key),
            Authority::Site { stamp, http, .. } => {
                let site = Site { stamp, http: &**http };
                site.lock(self.identity.as_ref(), profile, &|| medium::lock(self.runner))
            }
            Authority::Person { lock, .. } => Ok(lock.as_deref().cloned()),
            // The packages were chosen.
            Authority::Begun { .. } => Ok(None),
        }
    }
}

/// What is wrong with a lock whose packages are gone.
fn outdated(profile: &str, gone: &[&LockedPackage]) -> Option<Issue> {
    let names: Vec<String> = gone.iter().take(5).map(|p| format!("{} {}", p.name, p.version)).collect();
    let more = if gone.len() > names.len() { " and others" } else { "" };
    let message = format!(
        "{} packages of the signed lock are in no archive any more: {}{more}",
        gone.len(),
        names.join(", ")
    );
    let next = "make it anew with `akene-server lock`, or keep its packages in the server's pool";
    (!gone.is_empty()).then(|| Issue::new("lock-outdated", profile, message, next))
}
