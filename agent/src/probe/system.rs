//! Processor, memory, firmware and the strings of DMI.

use akene_protocol::Bytes;
use akene_protocol::garbage;
use akene_protocol::inventory::{Cpu, Dmi, Firmware, FirmwareKind, Memory};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::root::{ProbeRoot, fold, number, text};

/// GUID of the variables that the UEFI specification itself defines.
const EFI_GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Processor and memory of the running machine.
pub(super) fn cpu_and_memory(root: &ProbeRoot) -> (Cpu, Memory) {
    let wanted = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let flags = text(&root.proc.join("cpuinfo")).unwrap_or_default();
    let mut cpu = Cpu {
        arch: std::env::consts::ARCH.to_owned(),
        level: (std::env::consts::ARCH == "x86_64").then(|| level(&flags)).flatten(),
        ..Cpu::default()
    };
    let mut memory = Memory::default();
    // It answers an error where it cannot work at all, and zero where a file is missing.
    if let Ok(system) = System::new_with_specifics(wanted) {
        let first = system.cpus().first();
        cpu.model = first.map(|c| fold(c.brand())).filter(|b| !b.is_empty());
        cpu.vendor = first.map(|c| fold(c.vendor_id())).filter(|v| !v.is_empty());
        cpu.threads = u32::try_from(system.cpus().len()).ok().filter(|n| *n > 0);
        memory.total = Bytes(system.total_memory());
    }
    let cores = System::physical_core_count().ok();
    cpu.cores = cores.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    (cpu, memory)
}

/// The x86-64 level of the first processor in a `cpuinfo`, by the table of the System V ABI. `None`: no
/// flags are listed.
fn level(cpuinfo: &str) -> Option<u8> {
    let line = cpuinfo.lines().find_map(|l| l.strip_prefix("flags")?.split_once(':'))?;
    let flags: Vec<&str> = line.1.split_whitespace().collect();
    // `pni` is SSE3, `abm` has LZCNT.
    const LEVELS: [&[&str]; 4] = [
        &["lm", "cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse2"],
        &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"],
        &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"],
        &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
    ];
    let reached = LEVELS.iter().take_while(|level| level.iter().all(|f| flags.contains(f))).count();
    u8::try_from(reached).ok().filter(|level| *level > 0)
}

/// What kind of firmware started the system, and whether it enforces signatures.
pub(super) fn firmware(root: &ProbeRoot) -> Firmware {
    let efi = root.sys.join("firmware/efi");
    let kind = match (efi.is_dir(), number::<u32>(&efi.join("fw_platform_size"))) {
        (false, _) => FirmwareKind::Bios,
        (true, Some(32)) => FirmwareKind::Uefi32,
        (true, _) => FirmwareKind::Uefi64,
    };
    // A variable is four bytes of attributes and then its value.
    let variable = |name: &str| {
        let bytes = std::fs::read(efi.join("efivars").join(format!("{name}-{EFI_GLOBAL}"))).ok()?;
        bytes.get(4).copied()
    };
    let dmi = |name: &str| dmi_text(root, name).filter(|v| garbage::keep(v));
    Firmware {
        kind,
        // In set-up mode nothing is enforced, whatever the other variable says.
        secure_boot: variable("SecureBoot").map(|on| on == 1 && variable("SetupMode") != Some(1)),
        vendor: dmi("bios_vendor"),
        version: dmi("bios_version"),
        date: dmi_text(root, "bios_date"),
    }
}

fn dmi_text(root: &ProbeRoot, name: &str) -> Option<String> {
    text(&root.sys.join("class/dmi/id").join(name)).map(|t| fold(&t))
}

/// The strings of DMI without what says nothing.
pub(super) fn dmi(root: &ProbeRoot) -> Dmi {
    let name = |file: &str| dmi_text(root, file).filter(|v| garbage::keep(v));
    let (vendor, product, board) = (name("sys_vendor"), name("product_name"), name("board_name"));
    // A model in the place of a serial number is on every machine of that model.
    let serial = |file: &str| {
        let value = dmi_text(root, file).filter(|v| garbage::keep_serial(v))?;
        let names = [&vendor, &product, &board];
        let is_name = names.into_iter().flatten().any(|n| n.eq_ignore_ascii_case(&value));
        (!is_name).then_some(value)
    };
    Dmi {
        product_version: name("product_version"),
        product_sku: name("product_sku"),
        product_family: name("product_family"),
        product_serial: serial("product_serial"),
        product_uuid: dmi_text(root, "product_uuid")
            .filter(|v| garbage::keep_uuid(v))
            .map(|v| v.to_lowercase()),
        board_vendor: name("board_vendor"),
        board_serial: serial("board_serial"),
        // 1 and 2 are "other" and "unknown".
        chassis_type: dmi_text(root, "chassis_type").filter(|t| t != "1" && t != "2" && t != "0"),
        chassis_serial: serial("chassis_serial"),
        chassis_asset_tag: serial("chassis_asset_tag"),
        system_vendor: vendor,
        product_name: product,
        board_name: board,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_the_flags() {
        let one = "lm cmov cx8 fpu fxsr mmx syscall sse sse2";
        let two = format!("{one} cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3");
        let three = format!("{two} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave");
        assert_eq!(level(&format!("processor\t: 0\nflags\t\t: {one}\n")), Some(1));
        assert_eq!(level(&format!("flags\t\t: {two}\n")), Some(2));
        assert_eq!(level(&format!("flags\t\t: {three}\n")), Some(3));
        // A Celeron without AVX2 is not of level 3 although it has the rest.
        assert_eq!(level(&format!("flags : {}\n", three.replace(" avx2", ""))), Some(2));
        assert_eq!(level("processor : 0\n"), None);
    }
}
