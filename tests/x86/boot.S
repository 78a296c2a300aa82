/* The ROM of an emulated PC, in place of a BIOS: the CPU starts in its last 16 bytes. It reads parts of the disk into
   memory, switches to 64 bits with all vector registers on, and starts a static Linux program, whose few system calls
   it answers. machine.py writes the table of parts. Everything runs in ring 0 at addresses that are the memory's. */
#define BASE 0xffff0000
#define TABLE 0xffff8000 /* {first, count, address} in blocks of 256 sectors; then {0, 0, stack}, {0, 0, entry}, {0, 0, heap} */
#define PAGES 0x1000
#define AT(label) (BASE + label - start)

    .code16
start:
    cli
    lgdtl %cs:(gdtr - start)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x08, $AT(protected)

    .code32
protected:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    cld
    movl $TABLE, %ebp
part:
    movl (%ebp), %esi
    movl 4(%ebp), %ecx
    movl 8(%ebp), %edi
    addl $12, %ebp
    jecxz loaded
block: /* 256 sectors from sector 256 * esi, by ATA's READ SECTORS */
    movl $0x1f2, %edx
    xorl %eax, %eax
    outb %al, %dx
    incl %edx
    outb %al, %dx
    incl %edx
    movl %esi, %eax
    outb %al, %dx
    incl %edx
    shrl $8, %eax
    outb %al, %dx
    incl %edx
    movb $0xe0, %al
    outb %al, %dx
    incl %edx
    movb $0x20, %al
    outb %al, %dx
    movl $256, %ebx
sector:
    inb %dx, %al
    andb $0x88, %al
    cmpb $0x08, %al
    jne sector
    movl %ecx, %eax
    movl $0x1f0, %edx
    movl $128, %ecx
    rep insl
    movl $0x1f7, %edx
    movl %eax, %ecx
    decl %ebx
    jnz sector
    incl %esi
    loop block
    jmp part

loaded: /* edi: stack, then ebp: entry and heap. The first GiB is one page, and so is the last, where this code is. */
    movl $(PAGES + 0x1003), PAGES
    movl $0, PAGES + 4
    movl $0x83, PAGES + 0x1000
    movl $0, PAGES + 0x1004
    movl $0xc0000083, PAGES + 0x1018
    movl $0, PAGES + 0x101c
    movl $PAGES, %eax
    movl %eax, %cr3
    movl $0x40620, %eax /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    movl $0x101, %eax /* EFER: long mode, SYSCALL */
    xorl %edx, %edx
    wrmsr
    movl $0x80000023, %eax /* paging, native x87 errors, protection */
    movl %eax, %cr0
    ljmpl $0x18, $AT(long)

    .code64
long:
    fninit
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $0xe7, %eax /* XCR0: x87, SSE, AVX, AVX-512 */
    xsetbv
    movl $0xc0000081, %ecx /* STAR: the code segment of system calls */
    xorl %eax, %eax
    movl $0x18, %edx
    wrmsr
    incl %ecx /* LSTAR: where they go */
    movl $AT(system), %eax
    xorl %edx, %edx
    wrmsr
    movl $0xc0000084, %ecx /* no flags cleared */
    xorl %eax, %eax
    wrmsr
    movl %edi, %esp
    movl 8(%rbp), %eax
    movl 20(%rbp), %edx
    movl %edx, PAGES + 0x2000 /* the end of the heap */
    xorl %edx, %edx
    jmp *%rax

system: /* number in rax, arguments in rdi, rsi, ..., address to return to in rcx */
    cmpl $12, %eax
    je brk
    cmpl $10, %eax
    je nothing /* mprotect */
    cmpl $158, %eax
    je prctl
    cmpl $231, %eax
    je exit
    cmpl $234, %eax /* tgkill, by abort() */
    je exit
unknown:
    movq $-38, %rax
    jmp *%rcx
nothing:
    xorl %eax, %eax
    jmp *%rcx
brk:
    movl PAGES + 0x2000, %eax
    testq %rdi, %rdi
    jz 1f
    movl %edi, %eax
    movl %eax, PAGES + 0x2000
1:  jmp *%rcx
prctl:
    cmpl $0x1002, %edi /* ARCH_SET_FS */
    jne unknown
    movq %rcx, %r11
    movq %rsi, %rax
    movq %rsi, %rdx
    shrq $32, %rdx
    movl $0xc0000100, %ecx
    wrmsr
    movq %r11, %rcx
    xorl %eax, %eax
    xorl %edx, %edx
    jmp *%rcx
exit: /* Bochs ends when it reads this word here */
    leaq word(%rip), %rsi
    movl $0x8900, %edx
    movl $8, %ecx
    rep outsb
    hlt

word:
    .ascii "Shutdown"
    .balign 8
gdt: /* code and data of 32 bits, code and data of 64 */
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff, 0x00cf92000000ffff
gdtr:
    .word 39
    .long AT(gdt)
    .org 0xfff0
    .code16
    jmp start
    .org 0x10000
