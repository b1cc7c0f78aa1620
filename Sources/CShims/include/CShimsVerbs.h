#ifndef PAGEFERRY_CSHIMS_VERBS_H
#define PAGEFERRY_CSHIMS_VERBS_H

// libibverbs and librdmacm: the data path is inline functions over tables of function pointers and structures with
// anonymous unions, registration is a macro, and answers come through errno. Work and completions are flat here.

#include <features.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>

enum {
    PAGEFERRY_VERBS_READ = 1,
    PAGEFERRY_VERBS_WRITE_IMMEDIATE = 2,
    PAGEFERRY_VERBS_SEND_IMMEDIATE = 3,
    PAGEFERRY_VERBS_MOST_WORK = 32,
};

// One piece of work for a queue pair. `remote` and `remote_key` count for reads and writes, `immediate` for writes and sends.
struct pageferry_verbs_work {
    uint64_t token;
    uint64_t local;
    uint64_t remote;
    uint32_t length;
    uint32_t local_key;
    uint32_t remote_key;
    uint32_t immediate;
    uint32_t operation;
    uint32_t is_inline;
};

// A work completion without its anonymous union. `immediate` in host order, meaningful when `has_immediate`.
struct pageferry_verbs_completion {
    uint64_t token;
    uint32_t status;
    uint32_t opcode;
    uint32_t length;
    uint32_t immediate;
    uint32_t has_immediate;
    uint32_t vendor_error;
};

// The funnel for calls that answer -1 with errno.
static inline int pageferry_verbs_answer(int status) { return status == 0 ? 0 : (errno > 0 ? -errno : -EIO); }

// Posts a chain of at most PAGEFERRY_VERBS_MOST_WORK pieces with one doorbell. 0, or -errno; then *posted say how many went.
static inline int pageferry_verbs_post(
    struct ibv_qp *queue, const struct pageferry_verbs_work *work, int count, int *posted
) {
    struct ibv_send_wr requests[PAGEFERRY_VERBS_MOST_WORK];
    struct ibv_sge pieces[PAGEFERRY_VERBS_MOST_WORK];
    struct ibv_send_wr *bad = NULL;
    if (count < 1 || count > PAGEFERRY_VERBS_MOST_WORK) return -EINVAL;
    for (int index = 0; index < count; index++) {
        struct ibv_send_wr *request = &requests[index];
        memset(request, 0, sizeof *request);
        pieces[index] = (struct ibv_sge){ .addr = work[index].local, .length = work[index].length, .lkey = work[index].local_key };
        request->wr_id = work[index].token;
        request->next = index + 1 < count ? &requests[index + 1] : NULL;
        request->sg_list = &pieces[index];
        request->num_sge = work[index].length > 0 ? 1 : 0;
        request->send_flags = IBV_SEND_SIGNALED | (work[index].is_inline ? IBV_SEND_INLINE : 0);
        switch (work[index].operation) {
        case PAGEFERRY_VERBS_READ: request->opcode = IBV_WR_RDMA_READ; break;
        case PAGEFERRY_VERBS_WRITE_IMMEDIATE: request->opcode = IBV_WR_RDMA_WRITE_WITH_IMM; break;
        default: request->opcode = IBV_WR_SEND_WITH_IMM; break;
        }
        request->imm_data = htonl(work[index].immediate);
        request->wr.rdma.remote_addr = work[index].remote;
        request->wr.rdma.rkey = work[index].remote_key;
    }
    int status = ibv_post_send(queue, requests, &bad);
    *posted = status == 0 ? count : (bad ? (int)(bad - requests) : 0);
    return -status;
}

static inline int pageferry_verbs_post_receive(
    struct ibv_qp *queue, uint64_t token, uint64_t address, uint32_t length, uint32_t key
) {
    struct ibv_sge piece = { .addr = address, .length = length, .lkey = key };
    struct ibv_recv_wr request = { .wr_id = token, .sg_list = &piece, .num_sge = 1 };
    struct ibv_recv_wr *bad = NULL;
    return -ibv_post_recv(queue, &request, &bad);
}

// At most 32 completions. Their number, or a negative value when the queue itself is broken.
static inline int pageferry_verbs_poll(struct ibv_cq *queue, struct pageferry_verbs_completion *into, int most) {
    struct ibv_wc taken[32];
    int count = ibv_poll_cq(queue, most < 32 ? most : 32, taken);
    for (int index = 0; index < count; index++) {
        into[index].token = taken[index].wr_id;
        into[index].status = taken[index].status;
        into[index].opcode = taken[index].opcode;
        into[index].length = taken[index].byte_len;
        into[index].has_immediate = (taken[index].wc_flags & IBV_WC_WITH_IMM) != 0;
        into[index].immediate = ntohl(taken[index].imm_data);
        into[index].vendor_error = taken[index].vendor_err;
    }
    return count;
}

// Asks for an event with the next completion. 0, or -errno.
static inline int pageferry_verbs_arm(struct ibv_cq *queue) { return -ibv_req_notify_cq(queue, 0); }

// Takes the waiting events of a completion channel (nonblocking) and acknowledges them. Their number.
static inline int pageferry_verbs_take_events(struct ibv_comp_channel *channel, struct ibv_cq *queue) {
    int taken = 0;
    struct ibv_cq *which;
    void *context;
    while (taken < 64 && ibv_get_cq_event(channel, &which, &context) == 0) taken++;
    if (taken > 0) ibv_ack_cq_events(queue, (unsigned)taken);
    return taken;
}

// ibv_reg_mr is a macro. NULL with errno.
static inline struct ibv_mr *pageferry_verbs_register(struct ibv_pd *domain, uint64_t address, uint64_t length, uint32_t access) {
    return ibv_reg_mr(domain, (void *)(uintptr_t)address, length, (int)access);
}

// Makes a reliable connected queue pair for an identifier whose device is known. 0 or -errno.
static inline int pageferry_verbs_create_queue_pair(
    struct rdma_cm_id *identifier, struct ibv_pd *domain, struct ibv_cq *queue, uint32_t sends, uint32_t receives, uint32_t inline_bytes
) {
    struct ibv_qp_init_attr attributes = {
        .send_cq = queue, .recv_cq = queue, .qp_type = IBV_QPT_RC,
        .cap = { .max_send_wr = sends, .max_recv_wr = receives, .max_send_sge = 1, .max_recv_sge = 1, .max_inline_data = inline_bytes },
    };
    return pageferry_verbs_answer(rdma_create_qp(identifier, domain, &attributes));
}

// The connection's parameters. Retries below 7, which some devices take for "for ever".
static inline struct rdma_conn_param pageferry_verbs_parameters(uint8_t reads) {
    struct rdma_conn_param parameters;
    memset(&parameters, 0, sizeof parameters);
    parameters.responder_resources = reads;
    parameters.initiator_depth = reads;
    parameters.retry_count = 6;
    parameters.rnr_retry_count = 6;
    return parameters;
}

// Sets the local acknowledgement time-out of a connected queue pair: 4.096 us * 2^exponent. 0 or -errno.
static inline int pageferry_verbs_limit_silence(struct rdma_cm_id *identifier, uint8_t exponent) {
    return pageferry_verbs_answer(rdma_set_option(identifier, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &exponent, sizeof exponent));
}

// The resource's number is an enumerator behind a macro of the same name.
static inline int pageferry_verbs_locked_memory_limit(struct rlimit *limit) { return getrlimit(RLIMIT_MEMLOCK, limit); }

// fcntl(2) is variadic.
static inline int pageferry_verbs_set_nonblocking(int descriptor) {
    int flags = fcntl(descriptor, F_GETFL);
    if (flags < 0) return -errno;
    return fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

// rdma_get_src_addr and its like are inline and hide unions.
static inline uint16_t pageferry_verbs_local_port(struct rdma_cm_id *identifier) { return ntohs(rdma_get_src_port(identifier)); }
static inline struct sockaddr *pageferry_verbs_peer_address(struct rdma_cm_id *identifier) { return rdma_get_peer_addr(identifier); }

// The port's attributes: ibv_query_port is a macro over a compatibility structure. 0 or -errno.
static inline int pageferry_verbs_query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attributes) {
    memset(attributes, 0, sizeof *attributes);
    return -ibv_query_port(context, port, attributes);
}

// A union of bytes and two big-endian numbers.
static inline int pageferry_verbs_query_gid(struct ibv_context *context, uint8_t port, int index, uint8_t bytes[16]) {
    union ibv_gid gid;
    int status = pageferry_verbs_answer(ibv_query_gid(context, port, index, &gid));
    if (status == 0) memcpy(bytes, gid.raw, 16);
    return status;
}

#endif
