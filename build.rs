//! Makes sure that the folder which the binary embeds exists, so that `cargo build` works before the dashboard is built.

fn main() {
    std::fs::create_dir_all("dashboard/dist").expect("dashboard/dist can be created");
    println!("cargo:rerun-if-changed=dashboard/dist");
    println!("cargo:rerun-if-changed=migrations");
}
