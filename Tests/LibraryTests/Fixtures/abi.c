// Prints what the library's binary interface is made of: Fixtures/abi.txt has it as it must stay.
#include <pageferry.h>
#include <stdio.h>

#define SIZE(type) printf(#type " %zu\n", sizeof(struct type))
#define FIELD(type, field) printf(#type "." #field " %zu %zu\n", offsetof(struct type, field), sizeof(((struct type *)0)->field))
#define VALUE(name) printf(#name " %d\n", name)

int main(void) {
    SIZE(pageferry_security);
    FIELD(pageferry_security, pre_shared_key_path);
    FIELD(pageferry_security, certificate_path);
    FIELD(pageferry_security, key_path);
    FIELD(pageferry_security, authority_path);
    FIELD(pageferry_security, peer_name);
    FIELD(pageferry_security, insecure);
    FIELD(pageferry_security, reserved);
    SIZE(pageferry_source_region);
    FIELD(pageferry_source_region, name);
    FIELD(pageferry_source_region, memory_descriptor);
    FIELD(pageferry_source_region, reserved);
    FIELD(pageferry_source_region, file_offset);
    FIELD(pageferry_source_region, length_bytes);
    SIZE(pageferry_source_options);
    FIELD(pageferry_source_options, size);
    FIELD(pageferry_source_options, region_count);
    FIELD(pageferry_source_options, regions);
    FIELD(pageferry_source_options, listen);
    FIELD(pageferry_source_options, security);
    FIELD(pageferry_source_options, most_sessions);
    FIELD(pageferry_source_options, give_up_after_seconds);
    FIELD(pageferry_source_options, adopted_descriptors);
    FIELD(pageferry_source_options, adopted_count);
    FIELD(pageferry_source_options, transport);
    SIZE(pageferry_destination_region);
    FIELD(pageferry_destination_region, name);
    FIELD(pageferry_destination_region, address);
    FIELD(pageferry_destination_region, length_bytes);
    FIELD(pageferry_destination_region, page_size_bytes);
    FIELD(pageferry_destination_region, userfault_descriptor);
    FIELD(pageferry_destination_region, memory_descriptor);
    FIELD(pageferry_destination_region, reserved);
    FIELD(pageferry_destination_region, file_offset);
    SIZE(pageferry_destination_options);
    FIELD(pageferry_destination_options, size);
    FIELD(pageferry_destination_options, region_count);
    FIELD(pageferry_destination_options, regions);
    FIELD(pageferry_destination_options, connect);
    FIELD(pageferry_destination_options, security);
    FIELD(pageferry_destination_options, bulk_lanes);
    FIELD(pageferry_destination_options, window_bytes);
    FIELD(pageferry_destination_options, no_push);
    FIELD(pageferry_destination_options, give_up_after_seconds);
    FIELD(pageferry_destination_options, adopted_descriptors);
    FIELD(pageferry_destination_options, adopted_count);
    FIELD(pageferry_destination_options, transport);
    SIZE(pageferry_event);
    FIELD(pageferry_event, size);
    FIELD(pageferry_event, kind);
    FIELD(pageferry_event, status);
    FIELD(pageferry_event, session);
    FIELD(pageferry_event, text);
    SIZE(pageferry_statistics);
    FIELD(pageferry_statistics, size);
    FIELD(pageferry_statistics, sessions);
    FIELD(pageferry_statistics, total_pages);
    FIELD(pageferry_statistics, missing_pages);
    FIELD(pageferry_statistics, demanded_pages);
    FIELD(pageferry_statistics, window_pages);
    FIELD(pageferry_statistics, pushed_pages);
    FIELD(pageferry_statistics, zero_pages);
    FIELD(pageferry_statistics, faults);
    FIELD(pageferry_statistics, waiting_faults);
    FIELD(pageferry_statistics, pauses);
    FIELD(pageferry_statistics, fault_p50_nanoseconds);
    FIELD(pageferry_statistics, fault_p99_nanoseconds);
    FIELD(pageferry_statistics, fault_max_nanoseconds);
    VALUE(PAGEFERRY_ERROR_ARGUMENT);
    VALUE(PAGEFERRY_ERROR_HANDLE);
    VALUE(PAGEFERRY_ERROR_CONNECT);
    VALUE(PAGEFERRY_ERROR_PROTOCOL);
    VALUE(PAGEFERRY_ERROR_MISMATCH);
    VALUE(PAGEFERRY_ERROR_MEMORY);
    VALUE(PAGEFERRY_ERROR_TRUST);
    VALUE(PAGEFERRY_ERROR_LINK);
    VALUE(PAGEFERRY_ERROR_PEER);
    VALUE(PAGEFERRY_ERROR_PROCESS);
    VALUE(PAGEFERRY_ERROR_CANCELLED);
    VALUE(PAGEFERRY_ERROR_SYSTEM);
    VALUE(PAGEFERRY_TRANSPORT_STREAM);
    VALUE(PAGEFERRY_TRANSPORT_RDMA);
    VALUE(PAGEFERRY_TRANSPORT_AUTO);
    VALUE(PAGEFERRY_EVENT_SERVING);
    VALUE(PAGEFERRY_EVENT_PAUSED);
    VALUE(PAGEFERRY_EVENT_RESTORED);
    VALUE(PAGEFERRY_EVENT_ALL_RESIDENT);
    VALUE(PAGEFERRY_EVENT_ENDED);
    VALUE(PAGEFERRY_EVENT_BEGUN);
    VALUE(PAGEFERRY_EVENT_REFUSED);
    return 0;
}
