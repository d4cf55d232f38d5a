//! Whether two specifications are the same, in a number that fits a record.

use super::WorkerSpec;

impl WorkerSpec {
    /// The same for equal specifications, and almost surely another for others; comparable among
    /// processes of one version of Ostler. FNV-1a, 64 bits, of the specification's text.
    pub fn fingerprint(&self) -> u64 {
        let text = format!("{self:?}");
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_specifications_have_one_fingerprint_and_others_another() {
        let spec = WorkerSpec::new(["server", "{port}"]);
        assert_eq!(spec.fingerprint(), WorkerSpec::new(["server", "{port}"]).fingerprint());
        assert_ne!(spec.fingerprint(), WorkerSpec::new(["server {port}"]).fingerprint());
        let mut changed = spec.clone();
        changed.env.insert("A".into(), "1".into());
        assert_ne!(spec.fingerprint(), changed.fingerprint());
    }
}
