//! Where a machine's packages come from.
//!
//! Every way of staging fetches through the same sources, the nearest first: what lies on the computer, the lock's own addresses,
//! and the server of the site last.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use akene_archive::{Fetcher, Source as Packages, redirect_policy};
use akene_protocol::Bytes;
use akene_protocol::event::Unit;
use akene_protocol::lock::{Lock, LockedPackage};
use akene_protocol::stamp::{Source, Tls};
use anyhow::{Context, Result};

use super::{Authority, Machine};
use crate::net::http::Access;
use crate::net::tls::Dates;
use crate::run::stage::{Shelter, Visit};

impl Machine<'_> {
    /// A fetcher with the sources there are besides the lock's own. The server of the site is the last to be asked: one
    /// small server on the Internet is not to give everything to everybody.
    pub(in crate::run) fn fetcher(&self) -> Result<Fetcher> {
        let client = |tls: &Tls| -> Result<reqwest::blocking::Client> {
            let (proxy, resolver) = (self.proxy.as_deref(), &self.resolver);
            let access = Access { tls, proxy, resolver, dates: Dates::Checked };
            access.builder()?.redirect(redirect_policy()).build().context("preparing HTTP")
        };
        let fetcher = Fetcher::new(client(&Tls::default())?);
        let Authority::Site { stamp, .. } = &self.authority else { return Ok(fetcher) };
        let (Source::Server { url, tls, .. }, Some(who)) = (&stamp.source, &self.identity) else {
            return Ok(fetcher);
        };
        let base = format!("{}/v1/pool/sha256", url.trim_end_matches('/'));
        Ok(fetcher.last(Packages::pool("the server", base, client(tls)?, Some(who.bearer()))))
    }

    /// Mounts shelters to read what lies there, and says where in each.
    pub(super) fn visit<'s>(
        &self,
        shelters: impl Iterator<Item = &'s Shelter>,
    ) -> Vec<(Visit, &'static str)> {
        let mut visits = Vec::new();
        for shelter in shelters {
            match shelter.visit(false) {
                Ok(visit) => visits.push((visit, shelter.dir)),
                Err(error) => self.reporter.debug(format!("looking for packages: {error:#}")),
            }
        }
        visits
    }

    /// Fetches what of a lock is not there yet, and verifies it.
    pub(super) fn download(&self, fetcher: Fetcher, lock: &Lock, dir: &Path) -> Result<()> {
        if self.offline.is_some() {
            return self.download_offline(fetcher, lock, dir);
        }
        self.bring(&fetcher, &lock.packages, dir)
    }

    /// Fetches with progress, and says how the sources fared, also where it fails: one that lies may be why.
    pub(in crate::run) fn bring(
        &self,
        fetcher: &Fetcher,
        packages: &[LockedPackage],
        dir: &Path,
    ) -> Result<()> {
        let reporter = Mutex::new(self.reporter.clone());
        let brought = fetcher.fetch(packages, dir, &|p| {
            let reporter = reporter.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            reporter.progress(p.done, Some(p.total), Unit::Bytes, &p.what);
        });
        let report = fetcher.report();
        report.warnings.iter().for_each(|issue| self.reporter.warn(issue.to_string()));
        for source in &report.sources {
            self.reporter.debug(format!("{} came from {}", Bytes(source.bytes), source.name));
        }
        self.reporter.debug(format!("{} bytes of packages came over the network", report.network));
        brought
    }
}

/// Memory the kernel would give without pushing anything out.
pub(super) fn available_memory() -> Result<Bytes> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .context("finding MemAvailable in /proc/meminfo")?;
    Ok(Bytes(kib * 1024))
}
