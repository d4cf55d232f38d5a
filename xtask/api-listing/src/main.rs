//! `api-listing MANIFEST TARGET FEATURES`: prints everything that a crate makes public, one item a
//! line. Needs a nightly toolchain, whose rustdoc writes the JSON that this reads.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [manifest, target, features] = &arguments[..] else {
        return Err("usage: api-listing MANIFEST TARGET-DIRECTORY FEATURES".into());
    };
    let json = rustdoc_json::Builder::default()
        .toolchain("nightly")
        .manifest_path(manifest)
        .target_dir(target)
        .no_default_features(true)
        .features(features.split(',').filter(|feature| !feature.is_empty()))
        .quiet(true)
        .build()?;
    // What follows from the derives and the fields of a type is no decision of its own.
    let api = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()?;
    print!("{api}");
    Ok(())
}
