//! Archives beyond the distribution's, and everything that can be wrong with one: real apt, real keys, HTTP.

use std::fs;

use akene_archive::lock::{Snapshots, Variant, Variants, make};
use akene_exec::SystemRunner;
use akene_protocol::inventory::FirmwareKind;
use akene_protocol::issue::Issues;
use akene_protocol::lock::Request;
use akene_protocol::profile::{Bundle, Distribution, Layer, LocalPackage};
use akene_protocol::resolve::{Archive, resolve};
use akene_protocol::{Bytes, Inventory, Issue, Sha256};
use akene_server::site::init::{Options, init};
use akene_tests::deb;
use akene_tests::http::Fault;
use akene_tests::repository::{BASE, Key, Says, Site, archive, repository};

const INDEX: &str = "/dists/stable/main/binary-amd64/Packages";

/// A distribution with these packages beside the base.
fn distribution(site: &Site, key: &Key, controls: &[&str]) -> Archive {
    site.packages("main", &[&BASE[..], controls].concat());
    site.sign("main", key, &Says::default(), &[]);
    archive(&[site.url("main")], &key.armoured())
}

/// Names with versions of what apt chooses.
fn solved(site: &Site, archive: &Archive, wanted: &[&str]) -> Result<Vec<String>, Vec<Issue>> {
    let apt = site.apt(archive);
    let noted = apt.update(&SystemRunner, &mut |_| {}).unwrap();
    assert!(noted.is_empty(), "{noted:?}");
    let wanted: Vec<String> = wanted.iter().map(|w| w.to_string()).collect();
    match apt.solve(&SystemRunner, &wanted, true) {
        Ok(lock) => {
            let mut names: Vec<String> =
                lock.packages.iter().map(|p| format!("{} {}", p.name, p.version)).collect();
            names.retain(|n| !["base 1", "apt 2", "usr-is-merged 1"].contains(&n.as_str()));
            names.sort();
            Ok(names)
        }
        Err(error) => {
            let issues = error.downcast::<Issues>().unwrap_or_else(|e| panic!("not an issue: {e:#}")).0;
            issues.iter().for_each(|issue| eprintln!("{issue}"));
            Err(issues)
        }
    }
}

fn codes(issues: &[Issue]) -> Vec<&str> {
    issues.iter().map(|i| i.code.as_str()).collect()
}

#[test]
fn repositories_with_keys_of_their_own() {
    let Some(site) = Site::new() else { return };
    let (own, ppa, vendor) = (Key::new("ed25519"), Key::new("rsa2048"), Key::new("ed25519"));
    let mut archive = distribution(&site, &own, &["Package: hello\nVersion: 1\nArchitecture: amd64\n"]);
    site.packages("ppa", &["Package: hello\nVersion: 2~ppa\nArchitecture: amd64\nDepends: browser\n"]);
    site.sign("ppa", &ppa, &Says::default(), &[]);
    site.packages("vendor", &["Package: browser\nVersion: 100\nArchitecture: amd64\n"]);
    site.sign("vendor", &vendor, &Says::default(), &[]);
    // One with suite and component and an armoured key, one that is flat and has a binary key.
    archive.sources.insert("ppa".into(), repository(site.url("ppa"), "stable", &ppa.armoured()));
    archive.sources.insert("vendor".into(), repository(site.url("vendor"), "./", &vendor.base64()));
    assert_eq!(solved(&site, &archive, &["hello"]).unwrap(), ["browser 100", "hello 2~ppa"]);

    // Another key than the one that was given: both are named.
    archive
        .sources
        .insert("ppa".into(), repository(site.url("ppa"), "stable", &Key::new("ed25519").armoured()));
    let stranger = akene_protocol::openpgp::Keys::parse(&archive.sources["ppa"].key).unwrap();
    let [issue] = &site.refusal(&archive)[..] else { panic!("not one issue") };
    assert_eq!((issue.code.as_str(), issue.path.as_str()), ("archive-signature", site.url("ppa").as_str()));
    for part in ["`ppa`", &ppa.fingerprint()[24..], &stranger.fingerprints()[0]] {
        assert!(issue.message.contains(part), "{part}: {issue}");
    }
    assert!(issue.next.contains("`apt.sources.ppa.key`"), "{issue}");

    // Whoever holds the key of one repository cannot sign for another, not even for the distribution.
    archive.sources.insert("ppa".into(), repository(site.url("ppa"), "stable", &ppa.armoured()));
    site.sign("ppa", &vendor, &Says::default(), &[]);
    let issues = site.refusal(&archive);
    assert_eq!(codes(&issues), ["archive-signature"]);
    assert!(issues[0].message.contains("(that of `apt.sources.vendor.key`, which counts for nothing else)"));
    site.sign("ppa", &ppa, &Says::default(), &[]);
    site.sign("main", &vendor, &Says::default(), &[]);
    let issues = site.refusal(&archive);
    assert_eq!((codes(&issues), issues[0].path.clone()), (vec!["archive-signature"], site.url("main")));
    // Nor does the distribution's key vouch for a repository.
    site.sign("main", &own, &Says::default(), &[]);
    site.sign("vendor", &own, &Says::default(), &[]);
    let issues = site.refusal(&archive);
    assert_eq!(codes(&issues), ["archive-signature"]);
    assert!(issues[0].message.contains("`vendor`") && issues[0].message.contains("that of `apt.key`"));
}

#[test]
fn what_is_never_to_be_installed() {
    let Some(site) = Site::new() else { return };
    let key = Key::new("ed25519");
    let mut archive = distribution(
        &site,
        &key,
        &[
            "Package: desktop\nVersion: 1\nArchitecture: amd64\nRecommends: snapd, clock\n",
            "Package: clock\nVersion: 1\nArchitecture: all\n",
            "Package: snapd\nVersion: 1\nArchitecture: amd64\n",
            "Package: shop\nVersion: 1\nArchitecture: amd64\nDepends: snapd (>= 1)\n",
            "Package: either\nVersion: 1\nArchitecture: amd64\nDepends: snapd | clock\n",
        ],
    );
    // The archive would have it: this is what is being kept out.
    assert_eq!(solved(&site, &archive, &["desktop"]).unwrap(), ["clock 1", "desktop 1", "snapd 1"]);
    archive.never = vec!["snapd".into()];
    assert_eq!(solved(&site, &archive, &["desktop"]).unwrap(), ["clock 1", "desktop 1"]);
    assert_eq!(solved(&site, &archive, &["either"]).unwrap(), ["clock 1", "either 1"]);
    let issues = solved(&site, &archive, &["shop", "desktop"]).unwrap_err();
    assert_eq!(codes(&issues), ["package-never"]);
    assert!(issues[0].message.contains("but shop cannot do without it"), "{}", issues[0]);
    assert_eq!(codes(&solved(&site, &archive, &["snapd"]).unwrap_err()), ["package-never"]);
}

#[test]
fn whoever_makes_a_lock_is_told_of_packages_that_only_fetch_a_snap() {
    let Some(site) = Site::new() else { return };
    let key = Key::new("ed25519");
    let mut archive = distribution(
        &site,
        &key,
        &[
            "Package: browser\nVersion: 1:1snap1-0ubuntu5\nArchitecture: amd64\n",
            "Package: browser-locale-fr\nVersion: 1:1snap1-0ubuntu5\nArchitecture: amd64\nDepends: browser\n",
            "Package: snapd\nVersion: 2.63-0ubuntu1\nArchitecture: amd64\n",
        ],
    );
    let told = |archive: &Archive| {
        let variant = |wanted: &[&str]| Variant {
            archive: archive.clone(),
            request: Request {
                packages: wanted.iter().map(|w| w.to_string()).collect(),
                optional: vec![],
                recommends: false,
            },
            what: format!("{wanted:?}"),
        };
        let list = vec![variant(&["browser"]), variant(&["browser-locale-fr", "snapd"]), variant(&["snapd"])];
        let bundle = Bundle {
            site: "site".into(),
            name: "desk".into(),
            revision: "0".into(),
            classes: vec![],
            profile: Layer::default(),
        };
        let dir = tempfile::tempdir().unwrap();
        let mut snapshots = Snapshots::new(dir.path(), None, &|_| Ok(None));
        let variants = Variants { list, ..Variants::default() };
        make(&SystemRunner, &bundle, &variants, &mut snapshots, &mut |_| {}).unwrap().notes
    };
    assert_eq!(told(&archive), []);
    archive.distribution = Distribution::Ubuntu;
    let notes = told(&archive);
    let [note] = &notes[..] else { panic!("{notes:?}") };
    assert_eq!((note.code.as_str(), note.path.as_str()), ("package-is-a-snap", "browser"));
    assert!(note.message.contains("browser 1:1snap1-0ubuntu5") && !note.next.is_empty(), "{note}");
}

#[test]
fn versions_that_are_pinned() {
    let Some(site) = Site::new() else { return };
    let (key, other) = (Key::new("ed25519"), Key::new("ed25519"));
    let mut archive = distribution(&site, &key, &["Package: tool\nVersion: 1.0-1\nArchitecture: amd64\n"]);
    site.packages("other", &["Package: tool\nVersion: 2.0-1\nArchitecture: amd64\n"]);
    site.sign("other", &other, &Says::default(), &[]);
    archive.sources.insert("other".into(), repository(site.url("other"), "stable", &other.armoured()));
    assert_eq!(solved(&site, &archive, &["tool"]).unwrap(), ["tool 2.0-1"]);
    assert_eq!(solved(&site, &archive, &["tool=1.0-1"]).unwrap(), ["tool 1.0-1"]);
    // A version nobody has: those there are.
    let issues = solved(&site, &archive, &["tool=3.0-1"]).unwrap_err();
    assert_eq!(codes(&issues), ["package-missing"]);
    assert!(issues[0].message.contains("they have 2.0-1, 1.0-1"), "{}", issues[0]);
    // By preference.
    let pin = "Package: tool\nPin: version 1.*\nPin-Priority: 900\n";
    archive.preferences.insert("tool".into(), pin.into());
    assert_eq!(solved(&site, &archive, &["tool"]).unwrap(), ["tool 1.0-1"]);
}

#[test]
fn each_thing_that_is_wrong_with_a_release_has_its_own_name() {
    let Some(site) = Site::new() else { return };
    let key = Key::new("rsa2048");
    site.packages("main", &BASE);
    let good = archive(&[site.url("main")], &key.armoured());
    let says = |says: Says| site.sign("main", &key, &says, &[]);
    let refused = |code: &str, words: &str| {
        let issues = site.refusal(&good);
        assert_eq!(codes(&issues), [code], "{issues:?}");
        assert_eq!(issues[0].path, site.url("main"));
        assert!(issues[0].message.contains(words) && !issues[0].next.is_empty(), "{words}: {}", issues[0]);
    };
    says(Says { date: "3 weeks ago", until: "3 days ago", ..Says::default() });
    refused("release-expired", "out of date since 3d");
    says(Says { date: "2 days", until: "3 weeks", ..Says::default() });
    refused("release-future", "ahead of this computer's clock");
    says(Says { suite: "testing", codename: "later", ..Says::default() });
    refused("release-wrong", "asked for the release `stable`, it has `later` there");
    says(Says { sums: "SHA1", ..Says::default() });
    refused("release-weak", "no SHA-256 sums");
    site.sign("main", &key, &Says::default(), &["--digest-algo=SHA1"]);
    refused("release-weak", "a digest that can be forged");
    let release = site.path("main/dists/stable/InRelease");
    fs::write(&release, site.release("main", &Says::default())).unwrap();
    refused("release-unsigned", "carries no signature");
    fs::write(&release, "<html>Log in to use this network</html>").unwrap();
    refused("portal", "instead of the release");
    fs::remove_file(&release).unwrap();
    fs::write(site.path("main/dists/stable/Release"), site.release("main", &Says::default())).unwrap();
    refused("release-unsigned", "is not signed");
    says(Says::default());
    let text = fs::read_to_string(&release).unwrap();
    fs::write(&release, text.replace("Origin: Test", "Origin: Best")).unwrap();
    refused("archive-signature", "does not fit its release");
    says(Says::default());
    site.apt(&good).update(&SystemRunner, &mut |_| {}).unwrap();

    // A key that ran out: neither an unknown one nor a wrong clock.
    let old = Key::made("rsa2048", "2021-01-01", &["--faked-system-time=20200101T000000"]);
    site.sign("main", &old, &Says::default(), &["--faked-system-time=20200601T000000"]);
    let issues = site.refusal(&archive(&[site.url("main")], &old.armoured()));
    assert_eq!(codes(&issues), ["archive-key-expired"]);
    assert!(issues[0].message.contains(&old.fingerprint()[24..]), "{}", issues[0]);
}

#[test]
fn a_portal_that_comes_up_between_the_release_and_its_index_is_no_damaged_mirror() {
    let Some(site) = Site::new() else { return };
    let key = Key::new("ed25519");
    let archive = distribution(&site, &key, &[]);
    let only_portal = || {
        let issues = site.refusal(&archive);
        assert_eq!(codes(&issues), ["portal"], "{issues:?}");
        assert_eq!(issues[0].path, site.url("main"));
        assert!(issues[0].message.contains(&site.url("main/dists/stable/InRelease")), "{}", issues[0]);
    };
    site.server.take_served();
    // Whoever signed this network in is out when the index is asked for, and stays so.
    site.server.fault(INDEX, Fault::PortalBegins);
    only_portal();
    let asked = site.server.take_served();
    assert!(asked[0].ends_with("InRelease") && asked.iter().any(|path| path.ends_with(INDEX)), "{asked:?}");
    only_portal();
    site.server.mend();
    site.apt(&archive).update(&SystemRunner, &mut |_| {}).unwrap();
}

#[test]
fn a_vendors_wrong_name_is_said_and_no_refusal() {
    let Some(site) = Site::new() else { return };
    let (key, vendor) = (Key::new("ed25519"), Key::new("ed25519"));
    let mut archive = distribution(&site, &key, &[]);
    site.packages("vendor", &["Package: browser\nVersion: 100\nArchitecture: amd64\n"]);
    site.sign("vendor", &vendor, &Says { suite: "any", codename: "any", ..Says::default() }, &[]);
    archive.sources.insert("vendor".into(), repository(site.url("vendor"), "stable", &vendor.armoured()));
    let noted = site.apt(&archive).update(&SystemRunner, &mut |_| {}).unwrap();
    assert_eq!(codes(&noted), ["release-wrong"]);
    assert!(noted[0].message.contains("the repository `vendor`"), "{}", noted[0]);
}

#[test]
fn a_mirror_in_the_middle_of_an_update() {
    let Some(site) = Site::new() else { return };
    let key = Key::new("ed25519");
    let first = distribution(&site, &key, &[]);
    let index = fs::read(site.path(&format!("main{INDEX}"))).unwrap();
    // For good: refused as such, after it was asked twice.
    site.server.fault(INDEX, Fault::Flipped);
    site.server.take_served();
    assert_eq!(codes(&site.refusal(&first)), ["mirror-updating"]);
    let asked = site.server.take_served().iter().filter(|p| p.ends_with(INDEX)).count();
    assert!(asked >= 2, "the index was asked for {asked} times");
    // One that ends too early, and one that goes on.
    site.server.fault(INDEX, Fault::Bytes(index[..index.len() / 2].to_vec()));
    assert_eq!(codes(&site.refusal(&first)), ["mirror-updating"]);
    site.server.fault(INDEX, Fault::Bytes([&index[..], &vec![b'\n'; 1 << 20]].concat()));
    let code = codes(&site.refusal(&first))[0].to_owned();
    assert!(["mirror-updating", "index-oversized"].contains(&code.as_str()), "{code}");
    // A release file without end is not read to its end.
    site.server.mend();
    site.server.fault("InRelease", Fault::Bytes(vec![b'x'; 30 << 20]));
    let issues = site.refusal(&first);
    assert_eq!(issues.len(), 1, "{issues:?}");

    // The next mirror is whole.
    site.server.mend();
    site.packages("second", &BASE);
    site.sign("second", &key, &Says::default(), &[]);
    site.server.fault(&format!("main{INDEX}"), Fault::Flipped);
    let both = archive(&[site.url("main"), site.url("second")], &key.armoured());
    let apt = site.apt(&both);
    apt.update(&SystemRunner, &mut |_| {}).unwrap();
    assert_eq!(apt.mirrors().0, site.url("second"));

    // It has become whole by the time it is asked again.
    site.server.mend();
    site.server.fault(INDEX, Fault::Once(Box::new(Fault::Flipped)));
    site.server.take_served();
    site.apt(&first).update(&SystemRunner, &mut |_| {}).unwrap();
    let asked = site.server.take_served();
    assert_eq!(asked.iter().filter(|path| path.ends_with(INDEX)).count(), 2, "{asked:?}");
}

#[test]
fn a_mirror_that_crawls_is_left_for_the_next() {
    let Some(site) = Site::new() else { return };
    let key = Key::new("ed25519");
    let crawls = distribution(&site, &key, &[]);
    site.packages("second", &BASE);
    site.sign("second", &key, &Says::default(), &[]);
    let both = archive(&[site.url("main"), site.url("second")], &key.armoured());
    let update = |archive: &Archive, patience: u64| {
        let apt = site.apt(archive).patience(std::time::Duration::from_secs(patience));
        let updated = apt.update(&SystemRunner, &mut |_| {});
        (updated.map_err(|e| e.downcast::<Issues>().unwrap_or_else(|e| panic!("not an issue: {e:#}")).0), apt)
    };
    // A byte a second: of the release, which is the first thing there is, and of an index.
    for what in ["main/dists/stable/InRelease".to_owned(), format!("main{INDEX}")] {
        site.server.fault(&what, Fault::Drips);
        let issues = update(&crawls, 3).0.unwrap_err();
        assert_eq!(codes(&issues), ["archive-unreachable"]);
        assert!(issues[0].message.contains("next to nothing came in 3 s"), "{}", issues[0]);
        assert_eq!(issues[0].path, site.url("main"));
        // The whole one has as long as the other had, on however busy a computer.
        let (updated, apt) = update(&both, 30);
        updated.unwrap();
        assert_eq!(apt.mirrors().0, site.url("second"));
        site.server.mend();
    }
}

#[test]
fn indexes_are_fetched_by_hash_where_the_mirror_has_them() {
    let Some(site) = Site::new() else { return };
    let key = Key::new("ed25519");
    let archive = distribution(&site, &key, &[]);
    site.sign("main", &key, &Says { by_hash: true, ..Says::default() }, &[]);
    // The mirror is being updated: under its usual name there is the next index already.
    site.server.fault(INDEX, Fault::Flipped);
    site.server.take_served();
    site.apt(&archive).update(&SystemRunner, &mut |_| {}).unwrap();
    let served = site.server.take_served();
    assert!(served.iter().any(|p| p.contains("/by-hash/SHA256/")), "{served:?}");
}

/// A package beside a class, as the profile names it, and its file.
fn local(site: &Site, control: &str) -> (LocalPackage, std::path::PathBuf) {
    let dir = site.path("class");
    fs::create_dir_all(&dir).unwrap();
    let file = deb::make(&dir, control, &[("usr/share/own", vec![7; 100_000])]).unwrap();
    let field = |key: &str| control.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim().to_owned();
    let bytes = fs::read(&file).unwrap();
    let package = LocalPackage {
        name: field("Package:"),
        version: field("Version:"),
        architecture: field("Architecture:"),
        size: Bytes(bytes.len() as u64),
        sha256: Sha256::of(&bytes),
    };
    (package, file)
}

#[test]
fn packages_beside_a_class() {
    let Some(site) = Site::new() else { return };
    let key = Key::new("ed25519");
    let mut archive = distribution(
        &site,
        &key,
        &[
            "Package: menu\nVersion: 2\nArchitecture: amd64\n",
            "Package: library\nVersion: 1\nArchitecture: all\n",
        ],
    );
    // Older than the archive's, with an epoch, and with something only the archive has.
    let (menu, menu_file) =
        local(&site, "Package: menu\nVersion: 1:1.0~site\nArchitecture: all\nDepends: library (>= 1)\n");
    let (own, own_file) =
        local(&site, "Package: own\nVersion: 0.1\nArchitecture: amd64\nPre-Depends: menu\n");
    archive.local = vec![menu.clone(), own.clone()];
    let put = |apt: &akene_archive::AptRoot| {
        fs::create_dir_all(apt.local_dir()).unwrap();
        for (package, file) in [(&menu, &menu_file), (&own, &own_file)] {
            fs::copy(file, apt.local_dir().join(package.sha256.to_string())).unwrap();
        }
    };
    let apt = site.apt(&archive);
    put(&apt);
    apt.use_local().unwrap();
    apt.update(&SystemRunner, &mut |_| {}).unwrap();
    let lock = apt.solve(&SystemRunner, &["own".into()], true).unwrap();
    let chosen = |name: &str| lock.packages.iter().find(|p| p.name == name).unwrap();
    assert_eq!((chosen("menu").version.as_str(), chosen("menu").sha256), ("1:1.0~site", menu.sha256));
    assert_eq!((chosen("own").sha256, chosen("own").size), (own.sha256, own.size));
    assert_eq!(chosen("library").version, "1");
    // What was chosen can be fetched from there, under the name everything else expects.
    let dir = site.path("debs");
    // Another test of this program may have installed it already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client =
        reqwest::blocking::Client::builder().redirect(akene_archive::redirect_policy()).build().unwrap();
    akene_archive::Fetcher::new(client).fetch(&lock.packages, &dir, &|_| {}).unwrap();
    let fetched = fs::read(dir.join("menu_1%3a1.0~site_all.deb")).unwrap();
    assert_eq!(fetched, fs::read(&menu_file).unwrap());
    // Nothing of it gets into the installed system.
    let nowhere = std::path::Path::new("/etc/apt/keyrings");
    let files = akene_archive::source_files(&archive, &site.url("main"), "", nowhere, nowhere).unwrap();
    assert_eq!((files.sources.len(), files.preferences.len()), (1, 0));

    // One byte changed on the way.
    let apt = site.apt(&archive);
    put(&apt);
    let file = apt.local_dir().join(own.sha256.to_string());
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let issues = apt.use_local().unwrap_err().downcast::<Issues>().unwrap().0;
    assert_eq!(codes(&issues), ["local-package-changed"]);
    assert_eq!(issues[0].path, "own");
}

#[test]
fn what_lies_beside_a_class_is_checked_where_the_profile_is() {
    let Some(site) = Site::new() else { return };
    let key = Key::new("ed25519");
    let dir = site.path("site");
    let served = init(&dir, &Options::new("https://akene.example")).unwrap();
    let class = dir.join("classes/own");
    fs::create_dir_all(class.join("packages")).unwrap();
    fs::create_dir_all(class.join("keys")).unwrap();
    let text = "packages = [\"-second\"]\n[apt]\ndistribution = \"debian\"\nsuite = \"stable\"\n\
                [apt.sources.vendor]\nuri = \"https://v.example/apt\"\nsuites = [\"./\"]\n";
    fs::write(class.join("class.toml"), text).unwrap();
    fs::write(dir.join("profiles/own.toml"), "classes = [\"own\"]\n").unwrap();
    fs::write(class.join("keys/vendor.gpg"), key.binary()).unwrap();
    let (first, file) = local(&site, "Package: first\nVersion: 1\nArchitecture: amd64\n");
    fs::copy(&file, class.join("packages/first.deb")).unwrap();
    let (second, second_file) = local(&site, "Package: second\nVersion: 1\nArchitecture: all\n");
    fs::copy(&second_file, class.join("packages/second.deb")).unwrap();
    let bundle = || served.bundle(&served.config().unwrap(), "own");
    let (_, layer) = &bundle().unwrap().classes[0];
    assert_eq!(layer.local_packages, [first, second]);
    // Installed unless the class says otherwise.
    assert_eq!(layer.packages, ["-second", "first"]);
    let resolved = resolve(&bundle().unwrap(), &Inventory::unknown(FirmwareKind::Bios), None).unwrap();
    assert_eq!(resolved.archive.local.len(), 2);
    assert_eq!(resolved.archive.sources["vendor"].key, key.armoured());

    let refused = |words: &str| {
        let issues = bundle().unwrap_err().0;
        issues.iter().for_each(|issue| eprintln!("{issue}"));
        assert!(issues.len() == 1 && issues[0].to_string().contains(words), "{words}: {issues:?}");
    };
    // A damaged one, wherever the damage is; one for another kind of computer; the same twice.
    let good = fs::read(&file).unwrap();
    let mut bytes = good.clone();
    let at = bytes.len() - 20;
    bytes[at] ^= 0x40;
    fs::write(class.join("packages/first.deb"), bytes).unwrap();
    refused("first.deb: cannot be used");
    fs::write(class.join("packages/first.deb"), &good[..good.len() - 40]).unwrap();
    refused("first.deb: cannot be used");
    let (_, arm) = local(&site, "Package: first\nVersion: 2\nArchitecture: arm64\n");
    fs::copy(arm, class.join("packages/first.deb")).unwrap();
    refused("made for arm64");
    fs::copy(&file, class.join("packages/first.deb")).unwrap();
    fs::copy(&file, class.join("packages/again.deb")).unwrap();
    refused("is there twice");
    fs::remove_file(class.join("packages/again.deb")).unwrap();
    // A key for nobody.
    fs::copy(class.join("keys/vendor.gpg"), class.join("keys/vendro.gpg")).unwrap();
    refused("apt.sources.vendro");
    fs::remove_file(class.join("keys/vendro.gpg")).unwrap();
    bundle().unwrap();
    assert!(served.check(Some("own")).unwrap().issues.is_empty());
}
