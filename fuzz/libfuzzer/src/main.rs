//! The targets of `akene-fuzz` under libFuzzer, all in one program: `AKENE_FUZZ_TARGET` says which one
//! (`scripts/fuzz` sets it).

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<akene_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("AKENE_FUZZ_TARGET").unwrap_or_default();
    let found = akene_fuzz::TARGETS.iter().find(|t| t.name == name);
    *found.unwrap_or_else(|| panic!("AKENE_FUZZ_TARGET=`{name}` is no target"))
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
