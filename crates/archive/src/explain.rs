//! Why packages cannot be had or do not fit together, in terms of the profile.

use std::collections::BTreeMap;

use akene_exec::Runner;
use akene_protocol::Issue;

use crate::apt::AptRoot;

impl AptRoot {
    /// Which versions of a package the archives have, for a message: `2.10-3, 2.12-1`. Empty where there is none.
    pub(crate) fn versions_of(&self, runner: &dyn Runner, name: &str) -> String {
        // It only serves a hint.
        let Ok(output) = runner.run(&self.command("apt-cache").args(["madison", name])) else {
            return String::new();
        };
        let text = output.text();
        let mut versions: Vec<&str> = Vec::new();
        for line in text.lines() {
            let mut columns = line.split('|').map(str::trim);
            if let (Some(of), Some(version)) = (columns.next(), columns.next())
                && of == name
                && !versions.contains(&version)
            {
                versions.push(version);
            }
        }
        versions.join(", ")
    }

    /// Who needs a package that is never to be installed, among the lines in which apt says what does not fit:
    /// `cups-daemon : Depends: snapd but it is not installable`.
    pub(crate) fn needs_never(&self, why: &[&str]) -> Vec<Issue> {
        let mut needed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut who = "";
        for line in why {
            if let Some((name, _)) = line.split_once(" : ") {
                who = name.trim();
            }
            let Some((_, rest)) = line.split_once("Depends: ") else { continue };
            let Some(what) = rest.split([' ', ':']).next() else { continue };
            let never = self.archive().never.iter().any(|name| name == what);
            if never && rest.contains("not installable") {
                needed.entry(what).or_default().push(who);
            }
        }
        let issue = |(what, by): (&str, Vec<&str>)| {
            let by = by.join(", ");
            Issue::new(
                "package-never",
                "apt.never",
                format!("`{what}` is never to be installed, but {by} cannot do without it"),
                format!("take {by} out of the profile, or `{what}` out of `apt.never`"),
            )
        };
        needed.into_iter().map(issue).collect()
    }
}
