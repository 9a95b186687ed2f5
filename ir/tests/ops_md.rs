//! OPS.md is what the op table prints. `EGRET_BLESS=1 cargo test -p egret-ir --test ops_md` writes it anew.

#[test]
fn ops_md_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../OPS.md");
    let printed = egret_ir::ops_md::ops_md();
    if std::env::var_os("EGRET_BLESS").is_some() {
        std::fs::write(path, &printed).expect("OPS.md can be written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == printed, "OPS.md is stale; run `EGRET_BLESS=1 cargo test -p egret-ir --test ops_md`");
}
