//! A system of ours whose start was destroyed starts as it did before, by its own programs.

use std::fs;
use std::os::unix::fs::FileExt;

use akene_agent::storage::image::Image as Attached;
use akene_exec::{Cmd, Runner, SystemRunner};
use akene_tests::checks::{self, Expected};
use akene_tests::disks::can_run;
use akene_tests::image::Image;
use akene_tests::mirror::Mirror;
use akene_tests::native::{Orders, install, possible};
use akene_tests::site::{SSH_KEY, USER, program, small_server};
use akene_tests::start::{Start, destroy};

#[test]
fn a_destroyed_start_is_made_as_it_was() {
    if !possible() || !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    let mirror = Mirror::start().unwrap();
    let packages = akene_tests::mirror::cache_dir().unwrap().join("packages");
    let more = ["--size", "8GiB", "--packages", packages.to_str().unwrap()];
    let profile = small_server(&mirror, "127.0.0.1");
    let outcome = install(&disk, &Orders::Profile(&profile), dir.path(), &more).unwrap();
    assert!(outcome.good, "{}", outcome.story());
    let before = Start::of(&disk);
    destroy(&disk);

    let attached = Attached::attach(&disk, 512).unwrap();
    let node = attached.path().to_str().unwrap().to_owned();
    let agent = program("akene-agent").unwrap();
    let rescue = |args: &[&str]| {
        let cmd = Cmd::new(&agent).args(["rescue", "--also", &node]).args(args);
        SystemRunner.run(&cmd).unwrap_or_else(|e| panic!("{e:#}")).text()
    };
    let page = rescue(&["disks"]);
    let root = page.lines().find(|l| l.contains("akene-root") && l.contains("GNU/Linux"));
    let root = root.unwrap_or_else(|| panic!("{page}")).split_whitespace().next().unwrap().to_owned();
    // Without --yes it only says what it would do.
    let first = || {
        let mut bytes = [0; 0x1b8];
        fs::File::open(&node).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let said = rescue(&["boot", "--system", &root]);
    assert!(said.contains(&node) && said.contains("AKENE_BOOT"), "{said}");
    assert_eq!(first(), [0; 0x1b8], "it wrote without being told to");
    let said = rescue(&["boot", "--system", &root, "--yes"]);
    println!("{said}");
    attached.detach().unwrap();

    assert_eq!(Start::of(&disk), before);
    let image = Image::open(&disk).unwrap();
    assert_eq!(image.esp_file("/EFI/Microsoft/Boot/bootmgfw.efi").unwrap(), b"MZ Windows");
    drop(image);
    let expected =
        Expected { user: USER.into(), ssh_key: SSH_KEY.into(), fresh: true, ..Expected::default() };
    checks::installed(&disk, &expected).unwrap();
}
