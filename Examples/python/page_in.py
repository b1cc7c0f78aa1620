#!/usr/bin/env python3
"""Pages a file in from another host, by demand: libpageferry through ctypes, nothing else.

    ./page_in.py SOURCE BYTES [KEY-FILE]     prints a checksum of every byte

SOURCE is where a source listens, such as `pageferry source --memory FILE`; BYTES is the length of its memory.
"""
import ctypes
import fcntl
import mmap
import os
import struct
import sys
import zlib

library = ctypes.CDLL(os.environ.get("PAGEFERRY_LIBRARY", "libpageferry.so.0"))


class Security(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in
                ("pre_shared_key_path", "certificate_path", "key_path", "authority_path", "peer_name")] + [
        ("insecure", ctypes.c_int32), ("reserved", ctypes.c_int32)]


class Region(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("address", ctypes.c_uint64), ("length_bytes", ctypes.c_uint64),
                ("page_size_bytes", ctypes.c_uint32), ("userfault_descriptor", ctypes.c_int32),
                ("memory_descriptor", ctypes.c_int32), ("reserved", ctypes.c_int32), ("file_offset", ctypes.c_uint64)]


class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("region_count", ctypes.c_uint32), ("regions", ctypes.POINTER(Region)),
                ("connect", ctypes.c_char_p), ("security", ctypes.POINTER(Security)), ("bulk_lanes", ctypes.c_uint32),
                ("window_bytes", ctypes.c_uint32), ("no_push", ctypes.c_int32), ("give_up_after_seconds", ctypes.c_int32)]


class Event(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("kind", ctypes.c_int32), ("status", ctypes.c_int32), ("session", ctypes.c_uint32),
                ("text", ctypes.c_char * 496)]


ENDED = 5
library.pageferry_destination_open.restype = ctypes.c_int64
library.pageferry_next_event.argtypes = [ctypes.c_int64, ctypes.c_int32, ctypes.POINTER(Event)]
library.pageferry_close.argtypes = [ctypes.c_int64]


def checked(answer):
    if answer < 0:
        text = ctypes.create_string_buffer(512)
        library.pageferry_error_text(text, ctypes.c_size_t(512))
        sys.exit(f"page_in: {text.value.decode()}")
    return answer


def userfaultfd(address, length):
    """A userfaultfd with its handshake made, over shared memory: missing and minor faults, removals (ioctl_userfaultfd(2))."""
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(323, os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        sys.exit("page_in: userfaultfd: " + os.strerror(ctypes.get_errno()))
    fcntl.ioctl(descriptor, 0xC018AA3F, struct.pack("QQQ", 0xAA, 1 << 3 | 1 << 5 | 1 << 10, 0))
    fcntl.ioctl(descriptor, 0xC020AA00, struct.pack("QQQQ", address, length, 1 | 4, 0))
    return descriptor


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: page_in.py SOURCE BYTES [KEY-FILE]")
    length = int(sys.argv[2])
    memory = os.memfd_create("paged-in")
    os.ftruncate(memory, length)
    view = mmap.mmap(memory, length)
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    region = Region(b"memory", address, length, 4096, userfaultfd(address, length), memory)
    security = Security(sys.argv[3].encode() if len(sys.argv) > 3 else None)
    options = Options(ctypes.sizeof(Options), 1, ctypes.pointer(region), sys.argv[1].encode(), ctypes.pointer(security), 2, 0, 0, -1)
    destination = checked(library.pageferry_destination_open(ctypes.byref(options)))

    # Python's own threads wait on one lock while this one waits for a page; the library's threads are none of Python's.
    checksum = zlib.crc32(view)

    event = Event(ctypes.sizeof(Event))
    while event.kind != ENDED:
        checked(library.pageferry_next_event(destination, -1, ctypes.byref(event)))
    if event.status != 0:
        sys.exit(f"page_in: {event.text.decode()}")
    checked(library.pageferry_close(destination))
    print(f"crc32 {checksum:08x}")


main()
