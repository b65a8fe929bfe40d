// SPDX-License-Identifier: GPL-2.0-only
/*
 * tdxlab_pages: blocks of the kernel's own memory for a test to convert.
 *
 * In a TD, Linux converts memory between private and shared through
 * set_memory_decrypted() and set_memory_encrypted(), on behalf of swiotlb and
 * of drivers. This does the same for the pages and at the time that a test
 * asks for. Each open file of /dev/tdxlab-pages owns one block; its bytes are
 * read and written at their offset in the block.
 */
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/set_memory.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

/* 4 MiB: the most that the buddy allocator gives in one piece. */
#define MAX_BLOCK_ORDER 10

struct tdxlab_pages_alloc {
	__u32 order;
	__u32 reserved;
	__u64 gpa;
};

struct tdxlab_pages_convert {
	__u32 first;
	__u32 count;
	__u32 shared;
	__u32 reserved;
};

#define TDXLAB_PAGES_ALLOC	_IOWR('x', 0xd0, struct tdxlab_pages_alloc)
#define TDXLAB_PAGES_CONVERT	_IOW('x', 0xd1, struct tdxlab_pages_convert)

struct block {
	struct mutex lock;
	struct page *pages;
	unsigned int order;
	DECLARE_BITMAP(shared, 1 << MAX_BLOCK_ORDER);
	/* A failed conversion leaves pages in a state that is not known. */
	bool broken;
};

static unsigned long block_pages(const struct block *block)
{
	return block->pages ? 1UL << block->order : 0;
}

static long block_alloc(struct block *block, struct tdxlab_pages_alloc __user *user)
{
	struct tdxlab_pages_alloc arg;

	if (copy_from_user(&arg, user, sizeof(arg)))
		return -EFAULT;
	if (arg.order > MAX_BLOCK_ORDER)
		return -EINVAL;
	if (block->pages)
		return -EBUSY;
	block->pages = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN, arg.order);
	if (!block->pages)
		return -ENOMEM;
	block->order = arg.order;
	arg.gpa = page_to_phys(block->pages);
	return copy_to_user(user, &arg, sizeof(arg)) ? -EFAULT : 0;
}

static int convert(struct block *block, unsigned long first, unsigned long count, bool shared)
{
	unsigned long address = (unsigned long)page_address(block->pages + first);
	int err;

	if (shared)
		err = set_memory_decrypted(address, count);
	else
		err = set_memory_encrypted(address, count);
	if (err)
		block->broken = true;
	else if (shared)
		bitmap_set(block->shared, first, count);
	else
		bitmap_clear(block->shared, first, count);
	return err;
}

static long block_convert(struct block *block, const struct tdxlab_pages_convert __user *user)
{
	struct tdxlab_pages_convert arg;

	if (copy_from_user(&arg, user, sizeof(arg)))
		return -EFAULT;
	if (!arg.count || arg.shared > 1 || (u64)arg.first + arg.count > block_pages(block))
		return -EINVAL;
	if (block->broken)
		return -EIO;
	return convert(block, arg.first, arg.count, arg.shared);
}

static long tdxlab_pages_ioctl(struct file *file, unsigned int command, unsigned long arg)
{
	struct block *block = file->private_data;
	long err = -ENOTTY;

	mutex_lock(&block->lock);
	if (command == TDXLAB_PAGES_ALLOC)
		err = block_alloc(block, (void __user *)arg);
	else if (command == TDXLAB_PAGES_CONVERT)
		err = block_convert(block, (const void __user *)arg);
	mutex_unlock(&block->lock);
	return err;
}

static ssize_t tdxlab_pages_read(struct file *file, char __user *to, size_t count, loff_t *pos)
{
	struct block *block = file->private_data;
	ssize_t done = -EIO;

	mutex_lock(&block->lock);
	if (!block->pages)
		done = 0;
	else if (!block->broken)
		done = simple_read_from_buffer(to, count, pos, page_address(block->pages),
					       block_pages(block) << PAGE_SHIFT);
	mutex_unlock(&block->lock);
	return done;
}

static ssize_t tdxlab_pages_write(struct file *file, const char __user *from, size_t count, loff_t *pos)
{
	struct block *block = file->private_data;
	ssize_t done = -EIO;

	mutex_lock(&block->lock);
	if (!block->pages)
		done = -ENOSPC;
	else if (!block->broken)
		done = simple_write_to_buffer(page_address(block->pages),
					      block_pages(block) << PAGE_SHIFT, pos, from, count);
	mutex_unlock(&block->lock);
	return done;
}

static int tdxlab_pages_open(struct inode *inode, struct file *file)
{
	struct block *block = kzalloc(sizeof(*block), GFP_KERNEL);

	if (!block)
		return -ENOMEM;
	mutex_init(&block->lock);
	file->private_data = block;
	return 0;
}

static int tdxlab_pages_release(struct inode *inode, struct file *file)
{
	struct block *block = file->private_data;
	unsigned long first, end;

	/* Shared pages must not go back to the buddy allocator. */
	while (block->pages && !block->broken) {
		first = find_first_bit(block->shared, block_pages(block));
		if (first == block_pages(block))
			break;
		end = find_next_zero_bit(block->shared, block_pages(block), first);
		convert(block, first, end - first, false);
	}
	if (block->broken)
		pr_err("tdxlab_pages: %lu pages at %#llx are lost: they could not be converted\n",
		       block_pages(block), (u64)page_to_phys(block->pages));
	else if (block->pages)
		__free_pages(block->pages, block->order);
	kfree(block);
	return 0;
}

static const struct file_operations tdxlab_pages_fops = {
	.owner = THIS_MODULE,
	.open = tdxlab_pages_open,
	.release = tdxlab_pages_release,
	.read = tdxlab_pages_read,
	.write = tdxlab_pages_write,
	.llseek = default_llseek,
	.unlocked_ioctl = tdxlab_pages_ioctl,
};

static struct miscdevice tdxlab_pages_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "tdxlab-pages",
	.fops = &tdxlab_pages_fops,
	.mode = 0600,
};
module_misc_device(tdxlab_pages_device);

MODULE_DESCRIPTION("Blocks of kernel memory for a test to convert");
MODULE_LICENSE("GPL v2");
