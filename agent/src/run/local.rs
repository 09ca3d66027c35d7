//! The site's own packages, which lie beside its classes: brought here before anything is chosen.
//!
//! The signed profile says what they are; whoever has files by hash has them: the site's server, an offline medium. With a
//! signed lock nothing is chosen here, and they come with all other packages.

use akene_archive::AptRoot;
use akene_protocol::issue::Issues;
use akene_protocol::{Bytes, Issue};
use anyhow::Result;

use super::machine::Machine;

impl Machine<'_> {
    /// Fetches the site's own packages, checks them, and makes them known to apt.
    pub(super) fn use_local_packages(&self, apt: &AptRoot) -> Result<()> {
        let files = apt.local_files();
        if files.is_empty() {
            return Ok(());
        }
        let fetcher = self.fetcher()?;
        if !fetcher.has_sources() {
            let names: Vec<&str> = files.iter().map(|p| p.name.as_str()).collect();
            return Err(Issues::from(Issue::new(
                "local-package-unreachable",
                names.join(", "),
                "these packages lie beside the site's classes, and neither its server nor a medium gives them out here",
                "install from the site's server, or from an offline medium with the profile's lock (`akene-server lock`)",
            ))
            .into());
        }
        let size: Bytes = files.iter().map(|p| p.size).sum();
        self.reporter.info(format!("{} packages of the site's own, {size}", files.len()));
        fetcher.fetch(&files, &apt.local_dir(), &|_| {})?;
        apt.use_local()
    }
}
