//! tmp
#![no_std]
#![no_main]
#[panic_handler]
fn p(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! { loop {} }
