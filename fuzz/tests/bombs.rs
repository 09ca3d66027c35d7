//! Small packages that would be large: memory and time stay within bounds.
//!
//! One test, for the memory it measures is the whole process's.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use akene_archive::Deb;
use akene_fuzz::machine::crc32;
use akene_fuzz::packages::{package, tar_header};

/// What is in a bomb.
const SIZE: usize = 512 << 20;

/// More than the decoders need at their highest levels, far less than the bomb.
const MOST: u64 = 150 << 20;

/// The most memory this process has had since the last call, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    fs::write("/proc/self/clear_refs", "5").unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// A tar that begins with a file of zeros, compressed.
fn bomb(mut compressed: impl Write, name: &str) {
    compressed.write_all(&tar_header(name, b'0', "", SIZE)).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..SIZE >> 20 {
        compressed.write_all(&zeros).unwrap();
    }
    compressed.write_all(&[0; 1024]).unwrap();
}

fn bombs() -> [(&'static str, Vec<u8>); 3] {
    let mut xz = Vec::new();
    let mut writer = liblzma::write::XzEncoder::new(&mut xz, 0);
    bomb(&mut writer, "./usr/zeros");
    writer.finish().unwrap();
    let mut zst = Vec::new();
    let mut writer = zstd::stream::write::Encoder::new(&mut zst, 1).unwrap();
    bomb(&mut writer, "./usr/zeros");
    writer.finish().unwrap();
    let mut gz = Vec::new();
    let mut writer = flate2::write::GzEncoder::new(&mut gz, flate2::Compression::fast());
    bomb(&mut writer, "./usr/zeros");
    writer.finish().unwrap();
    [("tar.xz", xz), ("tar.zst", zst), ("tar.gz", gz)]
}

#[test]
fn bombs_need_little_memory_and_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.deb");
    for (suffix, compressed) in bombs() {
        assert!(compressed.len() < 10 << 20, "{suffix}: {} bytes", compressed.len());
        // In the place of the control files, where the paragraph is looked for behind it; and in that of the data,
        // unpacked as far as nothing is to be written.
        let as_control = package((&format!("control.{suffix}"), &compressed), ("data.tar", &[0; 1024]));
        let as_data = package(("control.tar", &[0; 1024]), (&format!("data.{suffix}"), &compressed));
        peak();
        let started = Instant::now();
        fs::write(&file, as_control).unwrap();
        Deb::new(&file).control().unwrap_err();
        fs::write(&file, as_data).unwrap();
        Deb::new(&file).extract_some(dir.path(), &mut |_| false).unwrap();
        let (took, most) = (started.elapsed(), peak());
        println!("{suffix}: {} bytes, {took:?}, {} MiB", compressed.len(), most >> 20);
        assert!(most < MOST, "{suffix}: {most} bytes of memory");
        assert!(took < Duration::from_secs(300), "{suffix}: {took:?}");
    }

    // A window and a dictionary of two gigabytes, of which the headers are enough.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 1, 0, 0];
    for (suffix, compressed) in [("tar.zst", window.to_vec()), ("tar.xz", wide_xz())] {
        let (control, data) = (format!("control.{suffix}"), format!("data.{suffix}"));
        fs::write(&file, package((&control, &compressed), (&data, &compressed))).unwrap();
        peak();
        for refused in
            [Deb::new(&file).control().unwrap_err(), Deb::new(&file).extract_into(dir.path()).unwrap_err()]
        {
            println!("{refused:#}");
        }
        assert!(peak() < MOST);
    }
}

/// The beginning of an xz stream with a dictionary of two gibibytes.
fn wide_xz() -> Vec<u8> {
    let with_sum = |bytes: &[u8]| [bytes, &crc32(bytes).to_le_bytes()].concat();
    let mut stream = b"\xfd7zXZ\0".to_vec();
    stream.extend(with_sum(&[0, 1]));
    // Twelve bytes of block header: one filter, LZMA2, with one byte of properties.
    stream.extend(with_sum(&[2, 0, 0x21, 1, 38, 0, 0, 0]));
    stream.extend([0; 16]);
    stream
}
