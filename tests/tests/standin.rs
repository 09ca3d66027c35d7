//! The Ubuntu stand-in: it is an archive apt accepts, and a system comes out of it.

use akene_tests::mirror::Mirror;
use akene_tests::standin::Standin;

#[test]
fn the_archive_is_built() {
    let mirror = Mirror::start().unwrap();
    let standin = Standin::start(&mirror).unwrap();
    println!("{}", standin.url());
}
