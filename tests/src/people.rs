//! People's files, and what tells whether they are still the same.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use akene_protocol::Sha256;

/// Files of two people: many sizes, owners, modes, links.
///
/// # Panics
/// When they cannot be made.
pub fn live_in(home: &Path) {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for person in ["ana", "bo"] {
        let dir = home.join(person);
        std::fs::create_dir_all(dir.join("Documents/2019/letters")).unwrap();
        std::fs::write(dir.join(".bashrc"), "# mine").unwrap();
        let uid = 1000 + u32::from(person == "bo");
        for i in 0..40 {
            let below = ["", "Documents", "Documents/2019", "Documents/2019/letters"][i % 4];
            let path = dir.join(below).join(format!("file é {i}"));
            let length = (random() % 200_000) as usize;
            let bytes: Vec<u8> = (0..length / 8 + 1).flat_map(|_| random().to_le_bytes()).collect();
            std::fs::write(&path, &bytes[..length]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600 + (i as u32 % 8))).unwrap();
            chown(&path, Some(uid), Some(100 + i as u32)).unwrap();
        }
        symlink("/etc/passwd", dir.join("link")).unwrap();
        std::fs::hard_link(dir.join(".bashrc"), dir.join("same")).unwrap();
        chown(&dir, Some(uid), Some(uid)).unwrap();
    }
}

/// Every path with its owner, mode and sum.
///
/// # Panics
/// When they cannot be read, or are fewer than people have.
pub fn sums(top: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().display().to_string();
            if name == "lost+found" {
                continue;
            }
            let meta = path.symlink_metadata().unwrap();
            let held = match (meta.is_dir(), meta.is_symlink()) {
                (true, _) => String::new(),
                (_, true) => path.read_link().unwrap().display().to_string(),
                // What else there is, devices and sockets, has no content.
                _ if !meta.is_file() => format!("{:?}", meta.file_type()),
                _ => Sha256::of(&std::fs::read(&path).unwrap()).to_string(),
            };
            found.insert(name, format!("{}:{} {:o} {held}", meta.uid(), meta.gid(), meta.mode()));
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    assert!(found.len() > 80, "{} paths", found.len());
    found
}
