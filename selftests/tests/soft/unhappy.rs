//! A QEMU that is missing, dies, hangs or speaks nonsense.
