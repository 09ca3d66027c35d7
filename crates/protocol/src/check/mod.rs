//! Checks on what an administrator wrote, beyond what the types can say.

mod text;
mod volumes;

use crate::issue::Issue;
use crate::openpgp::Keys;
use crate::profile::{Apt, Bundle, File, Layer, Network, Script, User};
pub(crate) use volumes::{ladder, volumes};

/// Checks every layer of a bundle, also the classes that do not count on some machine.
pub fn bundle(bundle: &Bundle) -> Vec<Issue> {
    let mut issues = Vec::new();
    for (name, class) in &bundle.classes {
        layer(class, &format!("classes/{name}"), &mut issues);
    }
    layer(&bundle.profile, &format!("profiles/{}", bundle.name), &mut issues);
    issues
}

/// Whether a name may be one of a user or group, by the rule of `adduser`.
pub fn is_account(name: &str) -> bool {
    text::account(name)
}

/// Collects the issues of one layer.
struct Check<'a> {
    path: &'a str,
    issues: &'a mut Vec<Issue>,
}

impl Check<'_> {
    fn issue(&mut self, code: &str, key: &str, message: impl Into<String>, next: &str) {
        self.issues.push(Issue::new(code, format!("{}: {key}", self.path), message, next));
    }

    /// Complains unless `good`. Texts are shown quoted and escaped: the report is one line, too.
    fn text(&mut self, good: bool, code: &str, key: &str, text: &str, what: &str, next: &str) {
        if !good {
            self.issue(code, key, format!("{text:?} is no {what}"), next);
        }
    }
}

/// Checks one layer. `path` names its file.
pub(crate) fn layer(layer: &Layer, path: &str, issues: &mut Vec<Issue>) {
    let mut check = Check { path, issues };
    check.placement(layer);
    check.region(layer);
    if let Some(identity) = &layer.identity {
        check.login(identity.username.as_deref(), "identity.username");
        check.realname(identity.realname.as_deref(), "identity.realname");
        check.password(identity.password.as_ref(), "identity.password");
    }
    check.users(&layer.users);
    if let Some(ssh) = &layer.ssh {
        check.keys(&ssh.authorized_keys, "ssh.authorized-keys");
    }
    if let Some(network) = &layer.network {
        check.network(network);
    }
    if let Some(apt) = &layer.apt {
        check.apt(apt);
    }
    check.software(layer);
    for file in &layer.files {
        check.file(file);
    }
    check.scripts(&layer.late_commands);
}

impl Check<'_> {
    fn placement(&mut self, layer: &Layer) {
        if self.path.starts_with("classes/") && !layer.classes.is_empty() {
            let next = "list them in the profile, in the order they count";
            self.issue("class-nested", "classes", "a class cannot list classes", next);
        }
        if self.path.starts_with("profiles/") && layer.when.is_some() {
            let next = "put the rule on a class, or in site.toml where profiles are chosen";
            self.issue("profile-rule", "when", "a profile cannot carry a rule", next);
        }
        for name in layer.variables.keys() {
            let next = "use letters, digits and _, beginning with a letter";
            self.text(
                text::variable_name(name),
                "variable-name",
                "variables",
                name,
                "name for a variable",
                next,
            );
            if matches!(name.as_str(), "asset" | "hostname") {
                let message = format!("`{name}` is set for each machine by itself");
                self.issue("variable-reserved", "variables", message, "choose another name");
            }
        }
    }

    fn region(&mut self, layer: &Layer) {
        if let Some(locale) = &layer.locale {
            let next = "write it as `locale -a` lists it, such as fr_FR.UTF-8";
            self.text(text::locale(locale), "locale", "locale", locale, "locale", next);
        }
        if let Some(zone) = &layer.timezone {
            let next = "write it as in /usr/share/zoneinfo, such as Europe/Paris";
            self.text(text::timezone(zone), "timezone", "timezone", zone, "time zone", next);
        }
        if let Some(keyboard) = &layer.keyboard {
            let next = "write the layout and variant as XKB names them, such as fr and oss";
            let (layout, variant) = (&keyboard.layout, &keyboard.variant);
            self.text(text::keyboard(layout, false), "keyboard", "keyboard.layout", layout, "layout", next);
            self.text(
                text::keyboard(variant, true),
                "keyboard",
                "keyboard.variant",
                variant,
                "variant",
                next,
            );
        }
    }

    fn login(&mut self, name: Option<&str>, key: &str) {
        let Some(name) = name else { return };
        let next =
            "use at most 32 lower-case letters, digits, _ and -, beginning with a letter; root has no entry";
        self.text(text::account(name) && name != "root", "user-name", key, name, "login name", next);
    }

    fn realname(&mut self, name: Option<&str>, key: &str) {
        let Some(name) = name else { return };
        let next = "write it on one line without : and ,";
        self.text(text::realname(name), "real-name", key, name, "full name for /etc/passwd", next);
    }

    fn password(&mut self, hash: Option<&crate::secret::Secret>, key: &str) {
        // The text itself may be somebody's password: it is not shown.
        if hash.is_some_and(|hash| !text::password_hash(hash.expose())) {
            let next = "write what `mkpasswd -m yescrypt` prints";
            self.issue("password-hash", key, "this is no password hash", next);
        }
    }

    fn keys(&mut self, keys: &[String], key: &str) {
        for line in keys {
            let next = "write one line as in ~/.ssh/id_ed25519.pub";
            self.text(text::ssh_key(line), "ssh-key", key, line, "public key of SSH", next);
        }
    }

    fn users(&mut self, users: &[User]) {
        for (i, user) in users.iter().enumerate() {
            let key = |what: &str| format!("users[{i}].{what}");
            self.login(Some(&user.name), &key("name"));
            self.realname(user.realname.as_deref(), &key("realname"));
            self.password(user.password.as_ref(), &key("password"));
            self.keys(&user.authorized_keys, &key("authorized-keys"));
            for group in &user.groups {
                let next = "use lower-case letters, digits, _ and -";
                self.text(text::account(group), "group-name", &key("groups"), group, "group name", next);
            }
            if let Some(shell) = &user.shell {
                let next = "write an absolute path such as /bin/bash";
                let good = text::plain_path(shell) && shell != "/";
                self.text(good, "shell", &key("shell"), shell, "login shell", next);
            }
            if let Some(uid) = user.uid.filter(|uid| !(1000..60000).contains(uid)) {
                let message = format!("{uid} is no id for a person");
                self.issue("user-id", &key("uid"), message, "choose one from 1000 to 59999");
            }
            if users[..i].iter().any(|u| u.name == user.name) {
                let message = format!("the user `{}` is there twice", user.name);
                self.issue("user-twice", &key("name"), message, "put both together");
            }
        }
    }

    fn network(&mut self, network: &Network) {
        if let Some(fixed) = &network.fixed {
            let key = |what: &str| format!("network.fixed.{what}");
            let next = "write it like 192.168.1.50/24";
            for address in &fixed.addresses {
                let good = text::address_with_prefix(address);
                self.text(good, "address", &key("addresses"), address, "address with a prefix length", next);
            }
            if fixed.addresses.is_empty() {
                self.issue("address", &key("addresses"), "a fixed network needs an address", next);
            }
            for address in fixed.gateway.iter().chain(&fixed.dns) {
                let good = address.parse::<std::net::IpAddr>().is_ok();
                let next = "write it like 192.168.1.1";
                self.text(good, "address", &key("gateway and dns"), address, "address", next);
            }
            if let Some(mac) = &fixed.mac {
                let next = "write it like 00:11:22:aa:bb:cc";
                self.text(text::mac(mac), "address", &key("mac"), mac, "address of a network card", next);
            }
        }
        for server in &network.ntp {
            let next = "write a name or an address";
            self.text(text::host(server), "time-server", "network.ntp", server, "time server", next);
        }
        if let Some(proxy) = &network.proxy {
            let next = "write it like http://proxy.example:3128";
            self.text(text::url(proxy), "url", "network.proxy", proxy, "address of a proxy", next);
        }
    }

    fn apt(&mut self, apt: &Apt) {
        let url_next = "write it like http://deb.example.org/debian";
        for (key, mirrors) in [("apt.mirrors", &apt.mirrors), ("apt.security-mirrors", &apt.security_mirrors)]
        {
            for mirror in mirrors {
                self.text(text::url(mirror), "url", key, mirror, "address of an archive", url_next);
            }
        }
        let word_next = "use letters, digits and . _ - / only";
        for (key, word) in apt
            .suite
            .iter()
            .map(|suite| ("apt.suite", suite))
            .chain(apt.components.iter().map(|component| ("apt.components", component)))
        {
            self.text(text::archive_word(word), "archive-word", key, word, "suite or component", word_next);
        }
        if let Some(key) = &apt.key {
            self.archive_key(key, "apt.key");
        }
        self.names(&apt.never, "apt.never");
        self.names(&apt.hold, "apt.hold");
        for (name, source) in &apt.sources {
            let key = |what: &str| format!("apt.sources.{name:?}.{what}");
            self.text(text::file_name(name), "file-name", "apt.sources", name, "name of a file", word_next);
            self.text(
                text::url(&source.uri),
                "url",
                &key("uri"),
                &source.uri,
                "address of an archive",
                url_next,
            );
            for word in source.suites.iter().chain(&source.components) {
                let good = text::archive_word(word);
                self.text(good, "archive-word", &key("suites"), word, "suite or component", word_next);
            }
            let flat = source.suites.iter().any(|suite| suite.ends_with('/'));
            if source.suites.is_empty() || flat != source.components.is_empty() {
                let message =
                    "a repository needs suites, and components unless it is flat (its suite ends in /)";
                self.issue("archive-word", &key("suites"), message, "see the repository's own page");
            }
            self.archive_key(&source.key, &key("key"));
        }
        for (name, text) in &apt.preferences {
            let good = text::file_name(name) && (!name.contains('.') || name.ends_with(".pref"));
            let next = "use letters, digits, _ and -; apt ignores any ending but .pref";
            self.text(good, "file-name", "apt.preferences", name, "file name apt reads", next);
            if name.starts_with("akene-") {
                self.issue("file-name", "apt.preferences", format!("{name:?} is ours"), "use another name");
            }
            if text.contains('\0') {
                self.issue("text", "apt.preferences", format!("{name:?} holds a zero byte"), "take it out");
            }
        }
    }

    fn names(&mut self, names: &[String], key: &str) {
        for name in names {
            let good = text::package(name) && !name.contains(['=', ':']);
            self.text(good, "package-name", key, name, "name of a package", "write the name alone");
        }
    }

    fn archive_key(&mut self, text: &str, key: &str) {
        // Never shown: somebody may have pasted the wrong half.
        if let Err(why) = Keys::parse(text) {
            let next = "paste what `gpg --armor --export KEY` prints; a class may carry it as keys/NAME.asc or \
                        keys/NAME.gpg instead";
            self.issue("archive-key", key, format!("this is no OpenPGP public key: {why}"), next);
        }
    }

    fn software(&mut self, layer: &Layer) {
        let next = "write a package's name, or name=version; -name takes one out";
        for package in &layer.packages {
            self.text(text::package(package), "package-name", "packages", package, "package", next);
        }
        for local in &layer.local_packages {
            let word = format!("{}={}", local.name, local.version);
            self.text(text::package(&word), "package-name", "local-packages", &word, "package", next);
            if !matches!(local.architecture.as_str(), "amd64" | "all") {
                let message = format!("`{}` is made for {}, not for amd64", local.name, local.architecture);
                self.issue("package-architecture", "local-packages", message, "use the amd64 package");
            }
        }
        if let Some(kernel) = &layer.kernel {
            if let Some(package) = &kernel.package {
                let good = text::package(package) && !package.starts_with('-');
                self.text(good, "package-name", "kernel.package", package, "package", next);
            }
            for argument in &kernel.arguments {
                let good = text::kernel_argument(argument);
                let next = "write one argument without spaces and quotation marks";
                self.text(good, "kernel-argument", "kernel.arguments", argument, "kernel argument", next);
            }
        }
        let menu = layer.boot.as_ref().and_then(|boot| boot.password.as_ref());
        // The text itself may be somebody's password: it is not shown.
        if menu.is_some_and(|hash| !text::grub_password(hash.expose())) {
            let next = "write what `grub-mkpasswd-pbkdf2` prints, from `grub.pbkdf2.sha512.` on";
            self.issue("password-hash", "boot.password", "this is no password hash for GRUB", next);
        }
        for line in &layer.debconf_selections {
            let words: Vec<&str> = line.split_whitespace().collect();
            let good = words.len() >= 3
                && !words[0].starts_with('#')
                && line.chars().all(|c| c == '\t' || text::one_line(c.encode_utf8(&mut [0; 4])));
            let next = "write OWNER QUESTION TYPE VALUE on one line";
            self.text(good, "debconf-line", "debconf-selections", line, "debconf answer", next);
        }
    }

    fn file(&mut self, file: &File) {
        let key = format!("files.{}", file.path.escape_debug());
        let next = "start it with / and leave out . and ..";
        self.text(
            text::file_path(&file.path),
            "file-path",
            &key,
            &file.path,
            "absolute path of a file",
            next,
        );
        if file.content.is_some() == file.base64.is_some() {
            let message = "a file needs either `content` or `base64`";
            self.issue("file-content", &key, message, "give exactly one of them");
        }
        if file.base64.as_ref().is_some_and(|text| crate::profile::decode_base64(text).is_none()) {
            self.issue("file-content", &key, "`base64` cannot be decoded", "write what `base64 FILE` prints");
        }
        let octal = |mode: &String| mode.len() == 4 && mode.chars().all(|c| ('0'..='7').contains(&c));
        if let Some(mode) = file.mode.as_ref().filter(|mode| !octal(mode)) {
            self.issue(
                "file-mode",
                &key,
                format!("{mode:?} is no file mode"),
                "write four octal digits, such as 0644",
            );
        }
        if let Some(owner) = file.owner.as_ref().filter(|owner| !text::owner(owner)) {
            self.issue(
                "file-owner",
                &key,
                format!("{owner:?} is no owner"),
                "write USER:GROUP, such as root:root",
            );
        }
    }

    fn scripts(&mut self, scripts: &[Script]) {
        for (i, script) in scripts.iter().enumerate() {
            let key = format!("late-commands[{i}]");
            let (name, body) = match script {
                Script::Line(line) => ("", line),
                Script::Named { name, script } => (name.as_str(), script),
            };
            if matches!(script, Script::Named { .. }) {
                let good = text::one_line(name) && !name.trim().is_empty();
                self.text(good, "script-name", &key, name, "name for a script", "write it on one line");
                if !body.starts_with("#!/") {
                    let next = "begin with a line such as #!/bin/sh";
                    self.issue(
                        "script",
                        &key,
                        format!("the script {name:?} does not say what runs it"),
                        next,
                    );
                }
            }
            if body.trim().is_empty() || body.contains('\0') {
                self.issue("script", &key, "the script is empty or holds a zero byte", "write a command");
            }
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
            format!("{name:?} cannot be a host name"),
            "use at most 63 letters, digits and hyphens",
        ));
    }
}

#[cfg(test)]
mod tests;
