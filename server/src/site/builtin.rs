//! The files a new site directory starts with, carried in the program.

/// Ready-made classes, by name.
pub const CLASSES: &[(&str, &str)] = &[
    ("base", include_str!("../../../classes/base/class.toml")),
    ("ssh", include_str!("../../../classes/ssh/class.toml")),
    ("desktop-light", include_str!("../../../classes/desktop-light/class.toml")),
];

/// `site.toml`, with `@…@` to be replaced.
pub const SITE: &str = include_str!("../../templates/site.toml");

/// `profiles/default.toml`, with `@…@` to be replaced.
pub const PROFILE: &str = include_str!("../../templates/default-profile.toml");

/// `.gitignore`.
pub const GITIGNORE: &str = "\
# Keys, tokens, and what the server learns: never in git.
/secrets/
/state/
/stamp*.json
";
