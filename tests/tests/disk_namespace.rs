//! Mounts that somebody else's namespace holds a copy of. Alone in its program: the namespaces made here would
//! hold copies of what other tests have mounted.

use akene_agent::storage::image::Image;
use akene_protocol::Bytes;
use akene_protocol::inventory::TableKind;
use akene_tests::disks::{MIB, can_run, carry_out, disk_plan, gpt_layout, plan_of, run};

/// A namespace made while the new system is mounted, as that of a service the host starts just then, holds a
/// copy of its mounts. The filesystem lives on in it; what was written must be on the disk all the same.
#[test]
fn what_another_namespace_still_has_mounted_is_written_out_and_told() {
    if !can_run() {
        return;
    }
    akene_exec::own_mounts().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disk.img");
    let image = Image::create(&file, Bytes(304 * MIB), 512).unwrap();
    let root = dir.path().join("root");
    let plan = plan_of(vec![disk_plan(&image, TableKind::Gpt, 512, true, gpt_layout())]);
    let home = plan.disks[0].partitions.iter().find(|p| p.mount.as_deref() == Some("/home")).unwrap();
    let home = format!("{}?offset={}", file.display(), home.start.0);
    let mounted = carry_out(plan, &root);
    std::fs::write(root.join("home/letter"), "dear ".repeat(10_000)).unwrap();

    let (ready, is_ready) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        akene_exec::own_mounts().unwrap();
        ready.send(()).unwrap();
        ended.recv().ok();
    });
    is_ready.recv().unwrap();
    mounted.unmount().unwrap();
    let found = run("debugfs", &["-R", "cat /letter", &home]);
    assert!(found.trim() == "dear ".repeat(10_000).trim(), "{} bytes are on the disk", found.len());
    let error = image.detach().unwrap_err();
    assert!(error.to_string().contains("still uses it"), "{error:#}");
    drop(end);
    other.join().unwrap();
}
