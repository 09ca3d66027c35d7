//! Packages that are only the address of a snap.

use crate::issue::Issue;
use crate::profile::Distribution;

/// What Ubuntu calls such packages, without epoch and revision: `1:1snap1-0ubuntu5` (firefox, thunderbird,
/// chromium-browser in noble), and the last real version of chromium-browser, which it kept (focal, jammy).
fn is_shim(version: &str) -> bool {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let Some((upstream, revision)) = version.rsplit_once('-') else { return false };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let snap = upstream.split_once("snap").is_some_and(|(before, after)| number(before) && number(after));
    (snap || upstream == "85.0.4183.83") && revision.starts_with("0ubuntu")
}

/// A warning, `package-is-a-snap`, for each of the packages (name, version) that holds no program and only lets snapd
/// fetch one. There is no snapd at work while a system is installed: such a package then says so, is content, and
/// leaves an icon that starts nothing. Translations and parts of one that is named are not named again.
pub(super) fn snaps<'p>(
    distribution: Distribution,
    packages: impl IntoIterator<Item = (&'p str, &'p str)>,
) -> Vec<Issue> {
    if distribution != Distribution::Ubuntu {
        return vec![];
    }
    let mut shims: Vec<_> = packages.into_iter().filter(|(_, version)| is_shim(version)).collect();
    shims.sort_unstable();
    shims.dedup();
    let part = |name: &str| {
        shims.iter().any(|(of, _)| name.strip_prefix(of).is_some_and(|rest| rest.starts_with('-')))
    };
    let named = shims.iter().filter(|(name, _)| !part(name));
    let issue = |(name, version): &(&str, &str)| {
        let repository = match *name {
            "firefox" => "Mozilla's own (https://packages.mozilla.org/apt)",
            _ => "one",
        };
        Issue::new(
            "package-is-a-snap",
            *name,
            format!("{name} {version} holds no program: it only fetches a snap, and installs nothing here"),
            format!(
                "add a repository that has `{name}` as a real package, {repository}, under `apt.sources`, with \
                 `apt.preferences` for it; or ask for another package instead"
            ),
        )
    };
    named.map(issue).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(distribution: Distribution, packages: &[(&str, &str)]) -> Vec<String> {
        snaps(distribution, packages.iter().copied()).into_iter().map(|issue| issue.path).collect()
    }

    #[test]
    fn what_only_fetches_a_snap_is_named_with_its_version_and_a_way_out() {
        let packages = [
            ("thunderbird", "2:1snap1-0ubuntu3"),
            ("firefox", "1:1snap1-0ubuntu5"),
            ("firefox-locale-fr", "1:1snap1-0ubuntu5"),
            ("chromium-browser", "1:85.0.4183.83-0ubuntu2.22.04.1"),
            ("firefox", "1:1snap1-0ubuntu5"),
            ("less", "590-2ubuntu2.1"),
        ];
        assert_eq!(named(Distribution::Ubuntu, &packages), ["chromium-browser", "firefox", "thunderbird"]);
        let [firefox] = &snaps(Distribution::Ubuntu, packages[1..2].iter().copied())[..] else { panic!() };
        assert_eq!(firefox.code, "package-is-a-snap");
        assert!(firefox.message.contains("firefox 1:1snap1-0ubuntu5"), "{firefox}");
        assert!(
            firefox.next.contains("packages.mozilla.org") && firefox.next.contains("apt.sources"),
            "{firefox}"
        );
        // A part alone is as empty as the whole.
        assert_eq!(named(Distribution::Ubuntu, &packages[2..3]), ["firefox-locale-fr"]);
    }

    #[test]
    fn real_packages_are_left_alone() {
        let real = [
            ("snapd", "2.63+24.04"),
            ("snapd", "2.63-0ubuntu1"),
            ("libsnappy1v5", "1.1.10-1build1"),
            ("libsnapd-glib-2-1", "1.64-0ubuntu5"),
            ("apt-btrfs-snapshot", "3.5.5"),
            ("cyphesis-cpp", "0.7.0~snap1"),
            ("tool", "1.2snap20240101-0ubuntu1"),
            ("tool", "snap1-0ubuntu1"),
            ("tool", "1snap1"),
            ("tool", "1snap1-1"),
            // Mozilla's own, and a PPA's.
            ("firefox", "128.0.3~build1"),
            ("firefox", "1:128.0+build2-0ubuntu0.24.04.1~mt1"),
            ("falkon", "24.01.75-1build3"),
            ("chromium", "126.0.6478.126-1"),
            ("", ""),
        ];
        assert_eq!(named(Distribution::Ubuntu, &real), <[&str; 0]>::default());
        // Debian has none, whatever a version looks like.
        assert_eq!(named(Distribution::Debian, &[("firefox", "1:1snap1-0ubuntu5")]), <[&str; 0]>::default());
    }
}
