//! Packages nobody ships, each of which has something that hand-made installers get wrong.
//!
//! Every archive in here is written member by member: `dpkg-deb --build` would neither make owners that are
//! somebody else's nor names a directory of this machine cannot hold.

mod make;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use make::{Entry, Package, Packing, What, file, hard, link, package, program};

/// What they need of an archive, beside the base.
pub const NEEDS: &[&str] = &["adduser", "libcap2-bin"];

/// What an administrator has put into the root before anything is installed: path and content.
pub const BEFORE: &[(&str, &str)] = &[
    ("etc/crafted/admin.conf", "as the administrator wants it\n"),
    ("etc/crafted/same.conf", "as shipped\n"),
    ("etc/crafted/through.conf", "as the administrator wants it\n"),
];

/// Writes all of them to a directory, and gives their files.
///
/// # Errors
/// The directory cannot be written.
pub fn build(dir: &Path) -> Result<Vec<PathBuf>> {
    let long_name = format!("/usr/share/crafted/{}/{}", "d".repeat(120), "f".repeat(150));
    let packages = [diversions(), preinst(), conffiles(), triggers(), owners(), names(&long_name)];
    let mut packages: Vec<Package<'_>> = packages.into_iter().flatten().collect();
    packages.extend(debconf());
    packages.extend(paths());
    packages.extend(packings());
    let names: Vec<&str> = packages.iter().map(|p| p.name).collect();
    let fields = format!("Depends: {}\n", names.join(", "));
    packages.push(package("crafted-all", &fields));
    packages.iter().map(|p| p.build(dir).with_context(|| format!("making {}", p.name))).collect()
}

/// A file that another package's preinst moves out of the way, overrides of owners, and alternatives.
fn diversions() -> Vec<Package<'static>> {
    vec![
        package("crafted-victim", "")
            .entry(program("/usr/bin/crafted-victim", "#!/bin/sh\necho the victim\n"))
            .entry(file("/usr/share/crafted/victim/data", "of the victim\n"))
            // A package none of whose files is its own any more is taken for replaced, and vanishes.
            .entry(file("/usr/share/doc/crafted-victim/readme", "of the victim alone\n")),
        package("crafted-diverter", "")
            .control(
                "preinst",
                "#!/bin/sh\nset -e\nfor f in /usr/bin/crafted-victim /usr/share/crafted/victim/data; do\n  \
                 dpkg-divert --package crafted-diverter --add --rename --divert $f.distrib $f\ndone\n",
            )
            .entry(program("/usr/bin/crafted-victim", "#!/bin/sh\necho the diverter\n"))
            .entry(file("/usr/share/crafted/victim/data", "of the diverter\n")),
        package("crafted-override", "")
            .control(
                "preinst",
                "#!/bin/sh\nset -e\ndpkg-statoverride --add root games 2755 /usr/games/crafted-overridden\n\
                 dpkg-statoverride --add games games 0700 /var/lib/crafted-overridden\n",
            )
            .entry(program("/usr/games/crafted-overridden", "#!/bin/sh\n"))
            .entry(Entry { what: What::Directory, mode: 0o755, ..file("/var/lib/crafted-overridden", "") }),
        package("crafted-editor-a", "")
            .control(
                "postinst",
                "#!/bin/sh\nset -e\nupdate-alternatives --install /usr/bin/crafted-editor crafted-editor \
                 /usr/bin/crafted-editor-a 10 --slave /usr/share/crafted/editor.help crafted-editor.help \
                 /usr/share/crafted/editor-a.help\n",
            )
            .entry(program("/usr/bin/crafted-editor-a", "#!/bin/sh\necho a\n"))
            .entry(file("/usr/share/crafted/editor-a.help", "a\n")),
        package("crafted-editor-b", "")
            .control(
                "postinst",
                "#!/bin/sh\nset -e\nupdate-alternatives --install /usr/bin/crafted-editor crafted-editor \
                 /usr/bin/crafted-editor-b 20\n",
            )
            .entry(program("/usr/bin/crafted-editor-b", "#!/bin/sh\necho b\n")),
    ]
}

/// A preinst that needs another package to be configured, and one that makes the user its files belong to.
fn preinst() -> Vec<Package<'static>> {
    let of_crafted = ("crafted-user", 6001);
    vec![
        package("crafted-helper", "")
            .control("postinst", "#!/bin/sh\nset -e\nmkdir -p /var/lib/crafted\necho yes >/var/lib/crafted/configured\n")
            .entry(program("/usr/lib/crafted/helper", "#!/bin/sh\ncat /var/lib/crafted/configured\n")),
        package("crafted-needy", "Pre-Depends: crafted-helper\n")
            .control(
                "preinst",
                "#!/bin/sh\nset -e\ntest ! -e /usr/share/crafted/needy\nmkdir -p /var/lib/crafted\n\
                 /usr/lib/crafted/helper >/var/lib/crafted/needy-saw\n",
            )
            .entry(file("/usr/share/crafted/needy", "needy\n")),
        package("crafted-user", "Pre-Depends: passwd\n")
            .control(
                "preinst",
                "#!/bin/sh\nset -e\nuseradd --system --user-group --home-dir /nonexistent --shell /usr/sbin/nologin crafted-user\n",
            )
            .entry(Entry {
                what: What::Directory,
                mode: 0o2750,
                owner: of_crafted,
                group: of_crafted,
                ..file("/var/lib/crafted-user", "")
            })
            .entry(Entry { mode: 0o640, owner: of_crafted, group: of_crafted, ..file("/var/lib/crafted-user/key", "k\n") })
            .entry(Entry { owner: of_crafted, group: of_crafted, ..link("/var/lib/crafted-user/link", "key") })
            .entry(Entry { mode: 0o4750, owner: of_crafted, group: of_crafted, ..program("/usr/bin/crafted-as-user", "#!/bin/sh\n") }),
    ]
}

/// Conffiles: new, changed by the administrator, the same as the administrator's, and a link.
fn conffiles() -> Vec<Package<'static>> {
    let list =
        "/etc/crafted/new.conf\n/etc/crafted/admin.conf\n/etc/crafted/same.conf\n/etc/crafted/secret.conf\n";
    vec![
        package("crafted-conf", "")
            .control("conffiles", list)
            .control("postinst", "#!/bin/sh\nset -e\ntest -f /etc/crafted/new.conf\necho \"$1,$2\" >/etc/crafted/postinst-was-told\n")
            .entry(file("/etc/crafted/new.conf", "as shipped\n"))
            .entry(file("/etc/crafted/admin.conf", "as shipped\n"))
            .entry(file("/etc/crafted/same.conf", "as shipped\n"))
            .entry(Entry { mode: 0o600, group: ("games", 4242), ..file("/etc/crafted/secret.conf", "secret\n") }),
        package("crafted-conf-link", "")
            .control("conffiles", "/etc/crafted/real.conf\n/etc/crafted/link.conf\n")
            .entry(file("/etc/crafted/real.conf", "real\n"))
            .entry(link("/etc/crafted/link.conf", "real.conf")),
    ]
}

/// Triggers by file, by name in the package, and by name at run time.
fn triggers() -> Vec<Package<'static>> {
    let collect = "#!/bin/sh\nset -e\nmkdir -p /var/lib/crafted\ncase \"$1\" in configure|triggered)\n  \
                   ls /usr/share/crafted-watched >/var/lib/crafted/watched 2>/dev/null || true ;;\nesac\n";
    vec![
        package("crafted-watcher", "")
            .control(
                "triggers",
                "interest-await /usr/share/crafted-watched\ninterest-noawait crafted-poke\ninterest crafted-late\n",
            )
            .control("postinst", collect),
        package("crafted-poker", "Depends: crafted-watcher\n")
            .control("triggers", "activate-noawait crafted-poke\nactivate /usr/share/crafted-nobody-waits\n")
            .control(
                "postinst",
                "#!/bin/sh\nset -e\necho late >/usr/share/crafted-watched/late\ndpkg-trigger crafted-late\n",
            )
            .entry(file("/usr/share/crafted-watched/poker", "poker\n")),
    ]
}

/// Owners by name, odd modes, hard links, a capability, things that are no files.
fn owners() -> Vec<Package<'static>> {
    let games = ("games", 7001);
    let stranger = ("who-is-this", 7002);
    vec![
        package("crafted-owners", "Depends: libcap2-bin\n")
            .control("postinst", "#!/bin/sh\nset -e\nsetcap cap_net_raw+ep /usr/bin/crafted-cap\n")
            .entry(program("/usr/bin/crafted-cap", "not really a program\n"))
            .entry(Entry { owner: games, group: games, ..file("/usr/share/crafted/of-games", "1\n") })
            .entry(Entry {
                owner: stranger,
                group: stranger,
                ..file("/usr/share/crafted/of-a-stranger", "2\n")
            })
            .entry(Entry {
                owner: ("", 7003),
                group: ("", 7004),
                ..file("/usr/share/crafted/of-numbers", "3\n")
            })
            .entry(Entry { mode: 0o4755, ..program("/usr/bin/crafted-setuid", "x\n") })
            .entry(Entry { mode: 0o2755, group: games, ..program("/usr/games/crafted-setgid", "x\n") })
            .entry(Entry {
                mode: 0o6711,
                owner: games,
                group: games,
                ..program("/usr/games/crafted-both", "x\n")
            })
            .entry(Entry { what: What::Directory, mode: 0o1777, ..file("/var/lib/crafted-sticky", "") })
            .entry(Entry {
                what: What::Directory,
                mode: 0o2775,
                group: ("mail", 7005),
                ..file("/var/lib/crafted-mail", "")
            })
            .entry(Entry { mode: 0o000, ..file("/usr/share/crafted/nobody", "0\n") })
            .entry(Entry { what: What::Fifo, mode: 0o622, ..file("/usr/share/crafted/fifo", "") })
            .entry(Entry { what: What::Null, mode: 0o666, ..file("/usr/share/crafted/null", "") }),
        package("crafted-links", "")
            .entry(Entry { mode: 0o4755, ..program("/usr/bin/crafted-one", "one\n") })
            .entry(Entry { mode: 0o4755, ..hard("/usr/bin/crafted-two", "/usr/bin/crafted-one") })
            .entry(Entry { mode: 0o4755, ..hard("/usr/share/crafted/links/three", "/usr/bin/crafted-one") })
            .entry(link("/usr/share/crafted/links/absolute", "/usr/bin/crafted-one"))
            .entry(link("/usr/share/crafted/links/nowhere", "../../nowhere")),
    ]
}

/// Names that need care.
fn names(long_name: &str) -> Vec<Package<'_>> {
    let odd = [
        "/usr/share/crafted/names/with space",
        "/usr/share/crafted/names/é中☃",
        "/usr/share/crafted/names/back\\slash",
        "/usr/share/crafted/names/-dash",
        "/usr/share/crafted/names/*",
        "/usr/share/crafted/names/tab\there",
        "/usr/share/crafted/names/file.dpkg-new.txt",
        "/usr/share/crafted/names/'quote\"",
    ];
    let base = package("crafted-names", "").entry(file(long_name, "long\n"));
    let all = odd.iter().fold(base, |package, name| package.entry(file(name, "odd\n")));
    let base = Package { sums: false, ..package("crafted-no-sums", "") };
    let no_sums = odd.iter().take(2).fold(
        base.entry(file("/usr/share/crafted/no-sums", "n\n"))
            .entry(link("/usr/share/crafted/no-sums-link", "no-sums")),
        |package, _| package,
    );
    vec![all, no_sums]
}

/// A package that asks in its preinst and its postinst.
fn debconf() -> Vec<Package<'static>> {
    let templates = "Template: crafted/colour\nType: select\nChoices: red, green\nDefault: green\nDescription: Which?\n \
                     The long text.\n\nTemplate: crafted/name\nType: string\nDescription: What name?\n";
    let ask = "#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_input high crafted/colour || true\ndb_go || true\n";
    let get = "#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_get crafted/colour\nmkdir -p /var/lib/crafted\n\
               echo \"$RET\" >/var/lib/crafted/colour-at-preinst\n";
    let after = "#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\ndb_get crafted/colour\n\
                 echo \"$RET\" >/var/lib/crafted/colour\n";
    vec![
        package("crafted-asks", "Pre-Depends: debconf\n")
            .control("templates", templates)
            .control("config", ask)
            .control("preinst", get)
            .control("postinst", after),
    ]
}

/// Paths that are not what they seem: unmerged, through links, shared, replaced.
fn paths() -> Vec<Package<'static>> {
    vec![
        package("crafted-unmerged", "")
            .entry(program("/bin/crafted-bin", "#!/bin/sh\n"))
            .entry(program("/sbin/crafted-sbin", "#!/bin/sh\n"))
            .entry(file("/lib/crafted-lib/x", "x\n"))
            .entry(file("/lib64/crafted-lib64", "x\n")),
        // As Ubuntu keeps the links of a merged /usr.
        package("crafted-keeper", "")
            .control(
                "preinst",
                "#!/bin/sh\nset -e\ndpkg-divert --package crafted-keeper --add --no-rename --divert /opt/kept.aside /opt/kept\n",
            )
            .entry(file("/usr/share/crafted/kept/one", "1\n"))
            .entry(link("/opt/kept", "../usr/share/crafted/kept")),
        package("crafted-kept", "Pre-Depends: crafted-keeper\n")
            .control("preinst", "#!/bin/sh\nset -e\ntest -e /opt/kept/one\n")
            .entry(file("/opt/kept/two", "2\n")),
        package("crafted-real", "").entry(file("/usr/share/crafted/real/one", "1\n")),
        package("crafted-alias", "Pre-Depends: crafted-real\n").entry(link("/usr/share/crafted/alias", "real")),
        package("crafted-through", "Pre-Depends: crafted-alias\n")
            .control("conffiles", "/etc/crafted/through.conf\n")
            .entry(file("/etc/crafted/through.conf", "as shipped\n"))
            .entry(file("/usr/share/crafted/alias/two", "2\n")),
        // The link is there before this one's directory.
        package("crafted-through-later", "Pre-Depends: crafted-alias\n")
            .control("preinst", "#!/bin/sh\nset -e\ntest -e /usr/share/crafted/alias/one\n")
            .entry(file("/usr/share/crafted/alias/three", "3\n")),
        // It says only that it depends on it, and apt has it there all the same.
        package("crafted-mistaken", "Depends: crafted-needed\n")
            .control("preinst", "#!/bin/sh\nset -e\ntest -e /usr/share/crafted/needed\n"),
        package("crafted-needed", "").entry(file("/usr/share/crafted/needed", "n\n")),
        package("crafted-doc-link", "Depends: crafted-real\n")
            .control("preinst", "#!/bin/sh\nset -e\ndpkg-maintscript-helper dir_to_symlink /usr/share/doc/crafted-doc-link /usr/share/crafted/real 1:1.0~ -- \"$@\"\n")
            .control("postinst", "#!/bin/sh\nset -e\ndpkg-maintscript-helper dir_to_symlink /usr/share/doc/crafted-doc-link /usr/share/crafted/real 1:1.0~ -- \"$@\"\n")
            .entry(link("/usr/share/doc/crafted-doc-link", "../crafted/real")),
        // Its directory has been changed by the script of another one, which comes later in the order.
        package("crafted-guest", "Pre-Depends: crafted-host\n")
            .control("preinst", "#!/bin/sh\nset -e\ntest -e /var/lib/crafted-host/own\n")
            .entry(Entry { what: What::Directory, mode: 0o755, ..file("/var/lib/crafted-host", "") })
            .entry(file("/var/lib/crafted-host/guest", "g\n")),
        package("crafted-host", "")
            .control("postinst", "#!/bin/sh\nset -e\nchown games:games /var/lib/crafted-host\nchmod 2750 /var/lib/crafted-host\n")
            .entry(Entry { what: What::Directory, mode: 0o755, ..file("/var/lib/crafted-host", "") })
            .entry(file("/var/lib/crafted-host/own", "o\n")),
        once(package("crafted-old", ""), "#!/bin/sh\nset -e\nmkdir /var/lib/crafted-old\n", "#!/bin/sh\nset -e\n[ \"$1\" != abort-install ] || rmdir /var/lib/crafted-old\n")
            .entry(file("/usr/share/crafted/shared", "of the old one\n"))
            .entry(file("/usr/share/crafted/only-old", "old\n")),
        // With the next one, apart from those that are laid again for another reason.
        package("crafted-bypassed", "Pre-Depends: crafted-helper\n")
            .control("preinst", "#!/bin/sh\nset -e\ntest -e /usr/lib/crafted/helper\n")
            .entry(file("/usr/share/crafted/detour", "of whom it was first\n"))
            .entry(file("/usr/share/crafted/bypassed", "b\n")),
        once(package("crafted-new", "Pre-Depends: crafted-helper\nReplaces: crafted-old (<< 1:3)\n"), "#!/bin/sh\nset -e\nmkdir /var/lib/crafted-new\n\
             dpkg-divert --package crafted-new --add --rename --divert /usr/share/crafted/detour.distrib /usr/share/crafted/detour\n", "#!/bin/sh\nset -e\n[ \"$1\" != abort-install ] || { rmdir /var/lib/crafted-new\n\
             dpkg-divert --package crafted-new --remove --rename /usr/share/crafted/detour || touch /var/lib/crafted-not-undone; }\n")
            // Laid before it is seen that another has the next.
            .entry(file("/usr/share/crafted/detour", "of the new one\n"))
            .entry(file("/usr/share/crafted/shared", "of the new one\n")),
        package("crafted-empty", ""),
        Package { executable: false, ..package("crafted-loose", "") }
            .control("preinst", "#!/bin/sh\nset -e\nmkdir -p /etc/crafted\necho \"$1\" >/etc/crafted/loose.told\n")
            .entry(file("/usr/share/crafted/loose", "l\n")),
        package("crafted-only-root", "").entry(Entry { what: What::Directory, mode: 0o755, ..file(".", "") }),
        Package { architecture: "amd64", ..package("crafted-same", "Multi-Arch: same\n") }
            .control("conffiles", "/etc/crafted/same-arch.conf\n")
            .control("postinst", "#!/bin/sh\nset -e\necho \"$DPKG_MAINTSCRIPT_PACKAGE $DPKG_MAINTSCRIPT_ARCH $DPKG_MAINTSCRIPT_NAME\" >/etc/crafted/same-arch.told\n")
            .entry(file("/etc/crafted/same-arch.conf", "c\n"))
            .entry(file("/usr/lib/x86_64-linux-gnu/crafted/lib", "l\n")),
        Package { architecture: "amd64", ..package("crafted-foreign", "Multi-Arch: foreign\nProvides: crafted-virtual (= 3)\n") }
            .entry(file("/usr/share/crafted/foreign", "f\n")),
    ]
}

/// With a first script that cannot run twice, unless what it did is undone in between.
fn once<'a>(package: Package<'a>, preinst: &'a str, postrm: &'a str) -> Package<'a> {
    package.control("preinst", preinst).control("postrm", postrm)
}

/// Every compression a package may have.
fn packings() -> Vec<Package<'static>> {
    let of = |name, packing, path| package(name, "").packed(packing).entry(file(path, "packed\n"));
    vec![
        of("crafted-plain", Packing::None, "/usr/share/crafted/plain"),
        of("crafted-gzip", Packing::Gzip, "/usr/share/crafted/gzip"),
        of("crafted-zstd", Packing::Zstd, "/usr/share/crafted/zstd"),
        // Its first script cannot run twice at all.
        of("crafted-lzma", Packing::Lzma, "/usr/share/crafted/lzma")
            .control(
                "preinst",
                "#!/bin/sh\nset -e\nmkdir -p /etc/crafted\necho \"$1\" >>/etc/crafted/lzma.told\n",
            )
            .entry(file("/usr/share/crafted/lzma-too", "packed\n")),
        // It comes when dpkg has laid the other, and takes a file of it.
        package("crafted-heir", "Pre-Depends: crafted-lzma\nReplaces: crafted-lzma (<< 1:3)\n")
            .control("preinst", "#!/bin/sh\nset -e\ntest -e /usr/share/crafted/lzma\n")
            .entry(file("/usr/share/crafted/lzma", "of the heir\n")),
    ]
}
