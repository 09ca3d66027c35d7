//! An Ubuntu-like archive installs through exactly the code that installs Ubuntu.

use akene_tests::checks::{self, Expected};
use akene_tests::image::{Image, inside};
use akene_tests::mirror::Mirror;
use akene_tests::native::{Orders, install, possible};
use akene_tests::site::{SSH_KEY, USER};
use akene_tests::standin::{SUITE, Standin};

#[test]
fn ubuntu_installs_from_the_stand_in() {
    if !possible() {
        return;
    }
    let mirror = Mirror::start().unwrap();
    if mirror.host.distribution != "debian" {
        eprintln!(
            "SKIPPED: the stand-in is made of Debian's packages; on Ubuntu the real thing is installed"
        );
        return;
    }
    let standin = Standin::start(&mirror).unwrap();
    let profile = standin.profile();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.img");
    let outcome = install(&image, &Orders::Profile(&profile), dir.path(), &["--size", "8GiB"]).unwrap();
    assert!(outcome.good, "{}", outcome.story());
    println!("installed the stand-in for {SUITE} in {:.1} s", outcome.took.as_secs_f64());

    let expected = Expected {
        user: USER.into(),
        ssh_key: SSH_KEY.into(),
        packages: ["ubuntu-minimal", "linux-generic", "linux-image-generic"].map(String::from).into(),
        secrets: Vec::new(),
        fresh: true,
        ..Expected::default()
    };
    checks::installed(&image, &expected).unwrap();

    let mut disk = Image::open(&image).unwrap();
    let root = disk.mount_system().unwrap();
    // The companion suites count: each holds a newer version of one package.
    let version = |package: &str| inside(&root, &["dpkg-query", "-W", "-f", "${Version}", package]).unwrap();
    assert_eq!(version("ubuntu-minimal"), "1.539.1");
    assert_eq!(version("linux-generic"), "6.8.0.45.45");
    let release = std::fs::read_to_string(root.join("etc/os-release")).unwrap();
    assert!(release.contains("ID=ubuntu"), "{release}");
    // Its apt goes on with the same archive and key.
    let sources = inside(&root, &["apt-get", "update", "--print-uris", "-oDebug::NoLocking=1"]).unwrap();
    for suite in ["noble", "noble-updates", "noble-security"] {
        let release = format!("{}/dists/{suite}/InRelease", standin.url());
        assert!(sources.contains(&release), "apt does not know {suite}: {sources}");
    }
}
