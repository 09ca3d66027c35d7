//! Checks on what an administrator wrote, beyond what the types can say.

use crate::issue::Issue;
use crate::profile::Layer;
use crate::resolve::VolumeWish;

/// Checks one layer. `path` names its file.
pub(crate) fn layer(layer: &Layer, path: &str, issues: &mut Vec<Issue>) {
    let mut issue = |code: &str, key: &str, message: String, next: &str| {
        issues.push(Issue::new(code, format!("{path}: {key}"), message, next));
    };
    if path.starts_with("classes/") && !layer.classes.is_empty() {
        issue(
            "class-nested",
            "classes",
            "a class cannot list classes".into(),
            "list them in the profile, in the order they count",
        );
    }
    if path.starts_with("profiles/") && layer.when.is_some() {
        issue(
            "profile-rule",
            "when",
            "a profile cannot carry a rule".into(),
            "put the rule on a class, or in site.toml where profiles are chosen",
        );
    }
    for file in &layer.files {
        let key = format!("files.{}", file.path);
        if !file.path.starts_with('/') || file.path.split('/').any(|part| part == "..") {
            issue(
                "file-path",
                &key,
                format!("`{}` is not an absolute path", file.path),
                "start it with / and leave out ..",
            );
        }
        if file.content.is_some() == file.base64.is_some() {
            issue(
                "file-content",
                &key,
                "a file needs either `content` or `base64`".into(),
                "give exactly one of them",
            );
        }
        let octal = |mode: &String| mode.len() == 4 && u32::from_str_radix(mode, 8).is_ok();
        if !file.mode.as_ref().is_none_or(octal) {
            issue(
                "file-mode",
                &key,
                format!("`{}` is no file mode", file.mode.as_deref().unwrap_or_default()),
                "write four octal digits, such as 0644",
            );
        }
    }
    let first = layer.identity.iter().filter_map(|i| i.username.as_ref());
    for name in layer.users.iter().map(|u| &u.name).chain(first) {
        // The rule of adduser's NAME_REGEX.
        let mut chars = name.chars();
        let good = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
            && name.len() <= 32;
        if !good || name == "root" {
            issue(
                "user-name",
                "users",
                format!("`{name}` cannot be a login name"),
                "use at most 32 lower-case letters, digits, _ and -, beginning with a letter",
            );
        }
    }
    for line in &layer.debconf_selections {
        if line.split_whitespace().count() < 3 || line.contains('\n') {
            issue(
                "debconf-line",
                "debconf-selections",
                format!("`{line}` is no debconf answer"),
                "write OWNER QUESTION TYPE VALUE on one line",
            );
        }
    }
}

/// Checks a host name: one label of RFC 1123.
pub(crate) fn hostname(name: &str, issues: &mut Vec<Issue>) {
    let good = !name.is_empty()
        && name.len() <= 63
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !good {
        issues.push(Issue::new(
            "hostname",
            "identity.hostname",
            format!("`{name}` cannot be a host name"),
            "use at most 63 letters, digits and hyphens",
        ));
    }
}

/// Checks the volumes of a resolved profile.
pub(crate) fn volumes(volumes: &[VolumeWish], issues: &mut Vec<Issue>) {
    for volume in volumes {
        let mut issue = |code: &str, key: &str, message: String, next: &str| {
            issues.push(Issue::new(code, format!("storage.volumes.{}.{key}", volume.name), message, next));
        };
        if volume.min > volume.enough || volume.max.is_some_and(|max| volume.enough > max) {
            let max = volume.max.map(|m| m.to_string()).unwrap_or_else(|| "no limit".into());
            issue(
                "volume-sizes",
                "min",
                format!(
                    "min ({}), enough ({}) and max ({max}) are not in ascending order",
                    volume.min, volume.enough
                ),
                "correct the sizes",
            );
        }
        match &volume.mount {
            Some(mount) if !mount.starts_with('/') => {
                issue(
                    "volume-mount",
                    "mount",
                    format!("`{mount}` is not an absolute path"),
                    "start it with /",
                );
            }
            Some(mount) if mount == "/boot" || mount.starts_with("/boot/") => {
                issue(
                    "volume-mount",
                    "mount",
                    format!("`{mount}` belongs to the boot chain that every machine gets"),
                    "choose another place",
                );
            }
            None if volume.filesystem != crate::profile::Filesystem::Swap => {
                issue("volume-mount", "mount", "the volume has no mount point".into(), "set `mount`");
            }
            _ => {}
        }
        let twice = volume.mount.is_some() && volumes.iter().filter(|v| v.mount == volume.mount).count() > 1;
        if twice {
            issue(
                "volume-mount",
                "mount",
                "another volume has the same mount point".into(),
                "give each its own",
            );
        }
    }
}
