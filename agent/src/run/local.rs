//! The site's own packages, which lie beside its classes: brought here before anything is chosen.
//!
//! The signed profile says what they are; the site's server has them, by hash.

use akene_archive::{AptRoot, Fetcher, Source as Packages, redirect_policy};
use akene_protocol::issue::Issues;
use akene_protocol::stamp::Source;
use akene_protocol::{Bytes, Issue};
use anyhow::{Context, Result};

use super::machine::{Authority, Machine};
use crate::net::http::Access;
use crate::net::tls::Dates;

impl Machine<'_> {
    /// Fetches the site's own packages, checks them, and makes them known to apt.
    pub(super) fn use_local_packages(&self, apt: &AptRoot) -> Result<()> {
        let files = apt.local_files();
        if files.is_empty() {
            return Ok(());
        }
        let server = match &self.authority {
            Authority::Site { stamp, .. } => match (&stamp.source, &self.identity) {
                (Source::Server { url, tls, .. }, Some(who)) => Some((url, tls, who)),
                _ => None,
            },
            Authority::Person { .. } | Authority::Begun { .. } => None,
        };
        let Some((url, tls, who)) = server else {
            let names: Vec<&str> = files.iter().map(|p| p.name.as_str()).collect();
            return Err(Issues::from(Issue::new(
                "local-package-unreachable",
                names.join(", "),
                "these packages lie beside the site's classes, and only its server gives them out",
                "install from the site's server, or put the packages into a repository of their own (`apt.sources`)",
            ))
            .into());
        };
        let access =
            Access { tls, proxy: self.proxy.as_deref(), resolver: &self.resolver, dates: Dates::Checked };
        let client = access.builder()?.redirect(redirect_policy()).build().context("preparing HTTP")?;
        let base = format!("{}/v1/pool/sha256", url.trim_end_matches('/'));
        let pool = Packages::pool("the server", base, client.clone(), Some(who.bearer()));
        let size: Bytes = files.iter().map(|p| p.size).sum();
        self.reporter.info(format!("{} packages of the site's own, {size}", files.len()));
        Fetcher::new(client).first(pool).fetch(&files, &apt.local_dir(), &|_| {})?;
        apt.use_local()
    }
}
